//! The text of the message, as SwanLab's own tools write it.

use apus_sdk::EndState;
use std::fmt::Write;

/// A language of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `zh`
    Chinese,
    /// `en`
    English,
}

/// The facts about the run that the message names.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Its project.
    pub project: String,
    /// Its workspace, if one was given.
    pub workspace: String,
    /// Its name.
    pub name: String,
    /// Its description by the user.
    pub description: String,
    /// Its page, if the server has it.
    pub page: Option<String>,
}

/// A message.
pub struct Message<'a> {
    language: Language,
    facts: &'a Facts,
    end: &'a EndState,
}

impl<'a> Message<'a> {
    pub(super) fn new(language: Language, facts: &'a Facts, end: &'a EndState) -> Self {
        Self {
            language,
            facts,
            end,
        }
    }

    fn in_language<'b>(&self, chinese: &'b str, english: &'b str) -> &'b str {
        match self.language {
            Language::Chinese => chinese,
            Language::English => english,
        }
    }

    /// One line.
    pub(super) fn subject(&self) -> &'static str {
        match (self.end, self.language) {
            (EndState::Finished(_), Language::Chinese) => "SwanLab | 您的实验已成功完成",
            (EndState::Finished(_), Language::English) => {
                "SwanLab | Your experiment completed successfully"
            }
            (EndState::Interrupted, Language::Chinese) => "SwanLab | 您的实验已被中断",
            (EndState::Interrupted, Language::English) => {
                "SwanLab | Your experiment was interrupted"
            }
            (EndState::Crashed(_), Language::Chinese) => "SwanLab | 您的实验遇到错误",
            (EndState::Crashed(_), Language::English) => {
                "SwanLab | Your experiment encountered an error"
            }
        }
    }

    /// The whole message.
    pub(super) fn text(&self) -> String {
        let mut text = self
            .in_language("SwanLab 消息通知\n", "SwanLab Message Notification\n")
            .to_owned();
        text += self.subject();
        if let EndState::Crashed(error) = self.end {
            let _ = write!(text, ": {}", error.chars().take(1000).collect::<String>());
        }
        let rows = [
            (
                self.in_language("项目", "Project"),
                self.facts.project.as_str(),
            ),
            (
                self.in_language("工作区", "Workspace"),
                &self.facts.workspace,
            ),
            (self.in_language("实验名", "Name"), &self.facts.name),
            (
                self.in_language("描述", "Description"),
                &self.facts.description,
            ),
            (
                self.in_language("实验链接", "Experiment Link"),
                self.facts.page.as_deref().unwrap_or_default(),
            ),
        ];
        for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
            let _ = write!(text, "\n{name}: {value}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_languages_say_what_is_known() {
        let facts = Facts {
            project: "swift-robot".to_owned(),
            name: "run".to_owned(),
            page: Some("https://swanlab.cn/@me/swift-robot/runs/a1".to_owned()),
            ..Facts::default()
        };
        let end = EndState::Crashed("out of memory".to_owned());
        let english = Message::new(Language::English, &facts, &end).text();
        assert_eq!(
            english,
            "SwanLab Message Notification\nSwanLab | Your experiment encountered an error: out of memory\n\
             Project: swift-robot\nName: run\nExperiment Link: https://swanlab.cn/@me/swift-robot/runs/a1"
        );
        let end = EndState::Finished(serde_json::Map::new());
        let chinese = Message::new(Language::Chinese, &facts, &end).text();
        assert!(
            chinese.contains("您的实验已成功完成\n项目: swift-robot"),
            "{chinese}"
        );
    }
}
