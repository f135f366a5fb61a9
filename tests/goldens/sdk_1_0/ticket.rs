//! What `examples/ticket-format` is, written with SDK 1.0.

use apus_sdk::serde_json::Value;
use apus_sdk::{Conversation, DatasetFormat, Message, Result, Row, Sample};

apus_sdk::options! {
    struct Tickets {
        /// Whether answers of the bot are trained, as those of agents are.
        include_bot: bool = false,
    }
}

apus_sdk::register! {
    /// Tickets with `subject` and `turns` of `from` (customer, agent, bot) and `text`; `product` is the channel.
    DatasetFormat, "old_ticket", Tickets
}

fn text<'a>(value: Option<&'a Value>, name: &str) -> Result<&'a str> {
    Ok(value
        .and_then(Value::as_str)
        .ok_or_else(|| format!("`{name}` is no text"))?)
}

impl DatasetFormat for Tickets {
    fn recognises(&self, columns: &[&str]) -> bool {
        columns.contains(&"subject") && columns.contains(&"turns")
    }

    fn rank(&self) -> i32 {
        100
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        let subject = text(row.get("subject"), "subject")?;
        let product = row.get("product").and_then(Value::as_str);
        let turns = row.get("turns").and_then(Value::as_array);
        let turns = turns.ok_or("`turns` is no list")?;
        let mut messages = vec![Message::new("system", format!("Ticket: {subject}"))];
        let mut answered = false;
        for turn in turns {
            let said = text(turn.get("text"), "text")?;
            let trained = match text(turn.get("from"), "from")? {
                "customer" => {
                    messages.push(Message::new("user", said));
                    continue;
                }
                "agent" => true,
                "bot" => self.include_bot,
                other => return Err(format!("`from` is {other:?}").into()),
            };
            answered |= trained;
            messages.push(Message {
                loss: Some(trained),
                ..Message::new("assistant", said)
            });
        }
        if !answered {
            return Ok(Vec::new());
        }
        Ok(vec![Sample::Conversation(Conversation {
            messages,
            channel: product.map(str::to_owned),
            ..Conversation::default()
        })])
    }
}
