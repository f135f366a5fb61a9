//! ms-swift's flags for SwanLab, which stand for options of its tracker.

use super::notify::{METHODS, is_chat};
use apus_sdk::built_in::{Answer, Argument, OptionFlag};
use apus_sdk::{Error, Options, Result};
use serde_json::Value;
use std::ops::Bound;

/// The ports that there are.
const PORTS: (Bound<f64>, Bound<f64>) = (Bound::Included(1.0), Bound::Included(65_535.0));

apus_sdk::built_in! {
    Tracker, "swanlab",
    flags: FLAGS,
    after: "sample_prompts",
    check: check,
    arguments: ARGUMENTS,
}

#[rustfmt::skip]
const FLAGS: &[OptionFlag] = &[
    OptionFlag::new("swanlab_token", "token", "SwanLab: key of the account; better kept in SWANLAB_API_KEY or by apus swanlab login")
        .beside("same; out of args.json and logs; see [SwanLab](swanlab.md)"),
    OptionFlag::new("swanlab_project", "project", "SwanLab: project; ms-swift if not given")
        .beside("same: `ms-swift`"),
    OptionFlag::new("swanlab_workspace", "workspace", "SwanLab: workspace; the account's own if not given"),
    OptionFlag::new("swanlab_exp_name", "exp_name", "SwanLab: name of the experiment; the run's name if not given")
        .beside("different default: the run's name, where ms-swift takes output_dir"),
    OptionFlag::new("swanlab_mode", "mode", "SwanLab: cloud; offline or local for the run's file alone; disabled")
        .beside("same for `cloud`; `local` and `offline` write the run's file alone; also `disabled`"),
    OptionFlag::new("swanlab_notification_method", "notification_method", "SwanLab: who is told that the run is over: dingtalk, lark, wxwork, slack, discord or email"),
    OptionFlag::new("swanlab_webhook_url", "webhook_url", "SwanLab: address that the message is posted to"),
    OptionFlag::new("swanlab_secret", "secret", "SwanLab: signs messages to dingtalk and lark; for email, the sender's password"),
    OptionFlag::new("swanlab_sender_email", "sender_email", "SwanLab: address that the email comes from"),
    OptionFlag::new("swanlab_receiver_email", "receiver_email", "SwanLab: address that the email goes to"),
    OptionFlag::new("swanlab_smtp_server", "smtp_server", "SwanLab: server that sends the email"),
    OptionFlag {
        limits: Some(PORTS),
        ..OptionFlag::new("swanlab_smtp_port", "smtp_port", "SwanLab: its port; 465 for TLS from the start, others (587 if not given) for STARTTLS")
        .beside("same; 587 if not given, which ms-swift does not allow")
    },
    OptionFlag::new("swanlab_email_language", "email_language", "SwanLab: language of the message, zh or en")
        .beside("same: `zh`; also for the other methods"),
];

const ARGUMENTS: &[Argument] = &[
    Argument {
        commands: &["sft"],
        names: &["swanlab_lark_webhook_url", "swanlab_lark_secret"],
        answer: Answer::Refused(
            &[],
            "it is --swanlab_notification_method lark with --swanlab_webhook_url and --swanlab_secret",
        ),
    },
    Argument {
        commands: &["infer"],
        names: &[
            "swanlab_project",
            "swanlab_token",
            "swanlab_workspace",
            "swanlab_exp_name",
            "swanlab_mode",
        ],
        answer: Answer::NoEffect("answers are not tracked"),
    },
];

/// Checks what a run could only tell at its end.
fn check(values: &Options) -> Result<()> {
    let text = |flag: &str| values.get(flag).and_then(Value::as_str);
    let is_given = |flag: &str| text(flag).is_some();
    if let Some(mode) = text("swanlab_mode")
        && !matches!(mode, "cloud" | "local" | "offline" | "disabled")
    {
        return Err(Error::new(format!(
            "swanlab_mode is {mode:?}, expected cloud, local, offline or disabled"
        )));
    }
    let Some(method) = text("swanlab_notification_method") else {
        return Ok(());
    };
    let needed: &[&str] = match method {
        "email" => &[
            "swanlab_sender_email",
            "swanlab_receiver_email",
            "swanlab_smtp_server",
            "swanlab_secret",
        ],
        chat if is_chat(chat) => &["swanlab_webhook_url"],
        _ => {
            return Err(Error::new(format!(
                "swanlab_notification_method is {method:?}, expected {METHODS}"
            )));
        }
    };
    match needed.iter().find(|flag| !is_given(flag)) {
        Some(missing) => Err(Error::new(format!(
            "swanlab_notification_method is {method} and {missing} is not given"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Swanlab;
    use apus_sdk::Describe;
    use serde_json::json;

    fn said(values: Value) -> String {
        let values = values.as_object().unwrap();
        check(values).map_or_else(|error| error.to_string(), |()| "fits".to_owned())
    }

    #[test]
    fn a_message_needs_to_know_where_to() {
        assert_eq!(said(json!({})), "fits");
        assert!(said(json!({"swanlab_mode": "clod"})).contains("expected cloud"));
        let method = |name: &str| said(json!({"swanlab_notification_method": name}));
        assert!(method("lark").contains("swanlab_webhook_url is not given"));
        assert!(method("email").contains("swanlab_sender_email is not given"));
        assert!(method("pigeon").contains("expected dingtalk"));
        let told = json!({"swanlab_notification_method": "slack", "swanlab_webhook_url": "https://example.org"});
        assert_eq!(said(told), "fits");
    }

    #[test]
    fn a_flag_stands_for_an_option() {
        let options = Swanlab::describe();
        for flag in FLAGS {
            assert_eq!(flag.name, format!("swanlab_{}", flag.option));
            assert!(
                options.iter().any(|option| option.name == flag.option),
                "{}",
                flag.name
            );
        }
    }
}
