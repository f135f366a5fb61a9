//! `swift/self-cognition`: who a model is and who made it, with places for both that ms-swift's `model_name` and
//! `model_author` fill in.

use apus_sdk::serde_json::Value;
use apus_sdk::{Dataset, DatasetSource, Error, Result, Row};

/// The columns with places for names.
const TEXTS: [&str; 2] = ["query", "response"];

apus_sdk::options! {
    struct SelfCognition {
        /// Name of the model: in Chinese and in English, or one for both.
        model_name: Vec<String> = Vec::new(),
        /// Author of the model: in Chinese and in English, or one for both.
        model_author: Vec<String> = Vec::new(),
        /// What is added to each question.
        query_suffix: String = String::new(),
        /// What each answer begins with.
        response_prefix: String = String::new(),
    }
}

apus_sdk::register! {
    /// Who a model is and who made it: model_name and model_author are filled in.
    Dataset, "swift/self-cognition", SelfCognition
}

apus_sdk::register! {
    /// swift/self-cognition by its name on Hugging Face.
    Dataset, "modelscope/self-cognition", SelfCognition
}

impl Dataset for SelfCognition {
    fn source(&mut self, subsets: &[String]) -> Result<DatasetSource> {
        for (option, names) in [
            ("model_name", &self.model_name),
            ("model_author", &self.model_author),
        ] {
            if names.is_empty() || names.len() > 2 {
                return Err(Error::new(format!(
                    "{option} has {} texts, expected one, or one in Chinese and one in English, as in --{option} 小黄 \
                     'Xiao Huang'",
                    names.len()
                )));
            }
        }
        for subset in subsets {
            let (suffix, prefix) = match subset.as_str() {
                "default" => ("", ""),
                "qwen3" => (" /no_think", "<think>\n\n</think>\n\n"),
                "empty_think" => ("", "<think>\n\n</think>\n\n"),
                other => {
                    return Err(Error::new(format!(
                        "there is no subset `{other}`, there are default, qwen3, empty_think"
                    )));
                }
            };
            if subsets.len() > 1 {
                return Err(Error::new(format!(
                    "the subsets {} are the same rows written in other ways; name one, and another as a dataset of its own",
                    subsets.join(", ")
                )));
            }
            suffix.clone_into(&mut self.query_suffix);
            prefix.clone_into(&mut self.response_prefix);
        }
        let source = DatasetSource::hugging_face("modelscope/self-cognition");
        Ok(source.or_model_scope("swift/self-cognition").changes_rows())
    }

    fn row(&self, mut row: Row) -> Result<Option<Row>> {
        let is_chinese = row.get("tag").and_then(Value::as_str) == Some("zh");
        let chosen = |names: &[String]| match (names, is_chinese) {
            ([_, english], false) => english.clone(),
            (names, _) => names.first().cloned().unwrap_or_default(),
        };
        for column in TEXTS {
            let Some(Value::String(text)) = row.get_mut(column) else {
                return Err(Error::new(format!(
                    "`{column}` is no text, expected one in each row"
                )));
            };
            *text = text
                .replace("{{NAME}}", &chosen(&self.model_name))
                .replace("{{AUTHOR}}", &chosen(&self.model_author));
            *text = match column {
                "query" => format!("{text}{}", self.query_suffix),
                _ => format!("{}{text}", self.response_prefix),
            };
        }
        // It has said which name is meant.
        row.remove("tag");
        Ok(Some(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::make;

    fn row(options: Value, subsets: &[&str], row: Value) -> Result<Value> {
        let mut dataset = make::<dyn Dataset>("swift/self-cognition", options)?;
        let subsets: Vec<String> = subsets.iter().map(|&subset| subset.to_owned()).collect();
        assert!(dataset.source(&subsets)?.is_changing());
        let row = dataset.row(row.as_object().unwrap().clone())?;
        Ok(Value::Object(row.unwrap()))
    }

    #[test]
    fn names_are_filled_in_by_the_language_of_a_row() {
        let both = json!({"model_name": ["小黄", "Xiao Huang"], "model_author": ["魔搭"]});
        let rows = |tag: &str| json!({"query": "Are you {{NAME}}?", "response": "{{NAME}} by {{AUTHOR}}, {{NAME}}", "tag": tag});
        assert_eq!(
            row(both.clone(), &[], rows("zh")).unwrap(),
            json!({"query": "Are you 小黄?", "response": "小黄 by 魔搭, 小黄"})
        );
        assert_eq!(
            row(both.clone(), &["qwen3"], rows("en")).unwrap(),
            json!({
                "query": "Are you Xiao Huang? /no_think",
                "response": "<think>\n\n</think>\n\nXiao Huang by 魔搭, Xiao Huang"
            })
        );
        let error = |options: Value, subsets: &[&str]| {
            row(options, subsets, rows("en")).unwrap_err().to_string()
        };
        assert!(error(json!({"model_name": ["a"]}), &[]).contains("model_author has 0 texts"));
        assert!(
            error(
                json!({"model_name": ["a", "b", "c"], "model_author": ["d"]}),
                &[]
            )
            .contains("model_name has 3")
        );
        assert!(error(both.clone(), &["qwen"]).contains("no subset `qwen`"));
        assert!(error(both.clone(), &["qwen3", "default"]).contains("name one"));
        assert!(row(both, &[], json!({"query": 1})).is_err());
    }
}
