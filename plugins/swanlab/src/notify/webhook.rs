//! Webhooks of chats: a text is posted to an address, and signed if the chat asks for it.

use super::super::http;
use super::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a chat may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The chat of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 钉钉
    DingTalk,
    /// 飞书
    Lark,
    /// 企业微信
    WxWork,
    /// Slack
    Slack,
    /// Discord
    Discord,
}

impl Kind {
    /// By ms-swift's names.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "dingtalk" => Self::DingTalk,
            "lark" => Self::Lark,
            "wxwork" => Self::WxWork,
            "slack" => Self::Slack,
            "discord" => Self::Discord,
            _ => return None,
        })
    }
}

fn signature(key: &str, text: &str) -> String {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else {
        return String::new();
    };
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// The query that DingTalk wants and the body, at a moment.
fn request(
    kind: Kind,
    secret: Option<&Secret>,
    text: &str,
    now: Duration,
) -> (Vec<(&'static str, String)>, Value) {
    let mut query = Vec::new();
    let body = match kind {
        Kind::DingTalk => {
            if let Some(secret) = secret.map(Secret::reveal) {
                let time = now.as_millis().to_string();
                let sign = signature(secret, &format!("{time}\n{secret}"));
                query = vec![("timestamp", time), ("sign", sign)];
            }
            json!({"msgtype": "text", "text": {"content": text}})
        }
        Kind::Lark => {
            let time = now.as_secs();
            let mut body =
                json!({"timestamp": time, "msg_type": "text", "content": {"text": text}});
            if let Some(secret) = secret.map(Secret::reveal) {
                // Lark signs nothing with the text as the key.
                body["sign"] = signature(&format!("{time}\n{secret}"), "").into();
            }
            body
        }
        Kind::WxWork => json!({"msgtype": "text", "text": {"content": text}}),
        Kind::Slack => json!({"text": text}),
        // Discord refuses more than 2000 characters.
        Kind::Discord => json!({"content": text.chars().take(2000).collect::<String>()}),
    };
    (query, body)
}

/// Posts a text.
pub fn send(kind: Kind, url: &Secret, secret: Option<&Secret>, text: &str) -> Result<(), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let (query, body) = request(kind, secret, text, now.unwrap_or_default());
    let mut address = reqwest::Url::parse(url.reveal())
        .map_err(|error| format!("webhook_url is no address: {error}"))?;
    if !query.is_empty() {
        address.query_pairs_mut().extend_pairs(query);
    }
    let client = http::client().map_err(|failure| failure.to_string())?;
    let request = client
        .post(address)
        .timeout(PATIENCE)
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .body(body.to_string());
    let reply = http::send(request, "the webhook").map_err(|failure| failure.to_string())?;
    // These chats answer 200 to what they refuse.
    for (code, words) in [("errcode", "errmsg"), ("code", "msg")] {
        if reply.body.get(code).and_then(Value::as_i64).unwrap_or(0) != 0 {
            let words = reply.text(words).unwrap_or("no reason given");
            return Err(format!("the webhook refused the message: {words}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chat_gets_its_own_form() {
        let now = Duration::from_millis(1_700_000_000_123);
        let secret = Secret::from("SECabc".to_owned());
        let form = |kind| request(kind, Some(&secret), "hi", now);
        let (query, body) = form(Kind::DingTalk);
        assert_eq!(query[0], ("timestamp", "1700000000123".to_owned()));
        // base64(hmac-sha256("SECabc", "1700000000123\nSECabc")), by Python.
        assert_eq!(query[1].1, "IqXBU/aLfwMA3S/tDcfRmHx5vWHw9Y1aOgFLBr1Ti9w=");
        assert_eq!(body, json!({"msgtype": "text", "text": {"content": "hi"}}));
        let (query, body) = form(Kind::Lark);
        assert!(query.is_empty());
        assert_eq!(body["sign"], "XprR1de+0SSBnwWyU/4k6x2TL+Q2SJlM5NNEdAv7MWg=");
        assert_eq!(body["timestamp"], 1_700_000_000);
        assert_eq!(form(Kind::WxWork).1["text"]["content"], "hi");
        assert_eq!(form(Kind::Slack).1, json!({"text": "hi"}));
        assert_eq!(form(Kind::Discord).1, json!({"content": "hi"}));
        assert!(request(Kind::Lark, None, "hi", now).1.get("sign").is_none());
    }

    #[test]
    fn a_failure_does_not_show_the_address() {
        let url = Secret::from("http://127.0.0.1:9/robot?access_token=topsecret".to_owned());
        let failure = send(Kind::DingTalk, &url, None, "hi").unwrap_err();
        assert!(!failure.contains("topsecret"), "{failure}");
    }
}
