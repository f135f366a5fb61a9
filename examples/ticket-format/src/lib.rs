//! A dataset format for support tickets: a subject, and turns of a customer, agents and a bot.

use apus_sdk::{Conversation, DatasetFormat, Message, Result, Row, Sample, serde_json};
use serde::Deserialize;

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Tickets {
        /// Whether answers of the bot are trained, as those of agents are.
        include_bot: bool = false,
    }
}

apus_sdk::register! {
    /// Tickets with `subject` and `turns` of `from` (customer, agent, bot) and `text`; `product` is the channel.
    DatasetFormat, "ticket", Tickets
}

#[derive(Deserialize)]
struct Ticket {
    subject: String,
    product: Option<String>,
    turns: Vec<Said>,
}

#[derive(Deserialize)]
#[serde(tag = "from", content = "text", rename_all = "snake_case")]
enum Said {
    Customer(String),
    Agent(String),
    Bot(String),
}

impl DatasetFormat for Tickets {
    fn recognises(&self, columns: &[&str]) -> bool {
        columns.contains(&"subject") && columns.contains(&"turns")
    }

    fn rank(&self) -> i32 {
        100
    }

    /// A ticket without an answer that is trained is dropped.
    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        let ticket: Ticket = serde_json::from_value(row.into())?;
        let mut messages = vec![Message::new(
            "system",
            format!("Ticket: {}", ticket.subject),
        )];
        messages.extend(ticket.turns.into_iter().map(|said| match said {
            Said::Customer(text) => Message::new("user", text),
            Said::Agent(text) => Message::new("assistant", text).trained(true),
            Said::Bot(text) => Message::new("assistant", text).trained(self.include_bot),
        }));
        if messages.iter().all(|message| message.loss != Some(true)) {
            return Ok(Vec::new());
        }
        let conversation = Conversation::new(messages).of_channel(ticket.product);
        Ok(vec![conversation.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::{Value, json};
    use apus_sdk::testing::{convert, make};

    fn messages(options: Value, turns: Value) -> Vec<(String, Option<bool>)> {
        let format = make::<dyn DatasetFormat>("ticket", options).unwrap();
        let row = json!({"subject": "No light", "product": "lamp", "turns": turns, "id": 7});
        let samples = convert(&*format, row).unwrap();
        let messages = samples.iter().flat_map(|sample| match sample {
            Sample::Conversation(conversation) => {
                assert_eq!(conversation.channel.as_deref(), Some("lamp"));
                conversation
                    .messages
                    .iter()
                    .map(|m| (m.role.clone(), m.loss))
            }
            Sample::Tokens(_) => panic!("a conversation is expected"),
        });
        messages.collect()
    }

    #[test]
    fn the_bot_is_trained_where_it_is_included() {
        let turns = json!([
            {"from": "customer", "text": "It is dark."},
            {"from": "bot", "text": "Is it plugged in?"},
            {"from": "agent", "text": "A new one is on its way."},
        ]);
        for included in [false, true] {
            let found = messages(json!({"include_bot": included}), turns.clone());
            let expected = [
                ("system", None),
                ("user", None),
                ("assistant", Some(included)),
                ("assistant", Some(true)),
            ];
            assert_eq!(found, expected.map(|(role, loss)| (role.to_owned(), loss)));
        }
    }

    #[test]
    fn a_ticket_without_an_answer_is_dropped_and_a_wrong_one_named() {
        let bot = json!([{"from": "bot", "text": "Is it plugged in?"}]);
        assert_eq!(messages(json!({}), bot.clone()), []);
        assert_eq!(messages(json!({"include_bot": true}), bot).len(), 2);
        let row = json!({"subject": "s", "turns": [{"from": "chef", "text": "t"}]});
        let error = convert(&Tickets::default(), row).unwrap_err().to_string();
        assert!(error.contains("unknown variant `chef`"), "{error}");
    }
}
