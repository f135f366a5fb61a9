//! The run on the server: its project and experiment are found or made, and its end is reported.

use super::http::{Failure, Reply};
use super::record::{Start, Timestamp, resume, state};
use super::session::Session;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The presets that SwanLab takes colours from, in turn.
const COLORS: [&str; 16] = [
    "#528d59", "#587ad2", "#c24d46", "#9cbe5d", "#6ebad3", "#dfb142", "#6d4ba4", "#8cc5b7",
    "#892d58", "#40877c", "#d0703c", "#d47694", "#e3b292", "#b15fbb", "#905f4a", "#989fa3",
];

/// The characters that have to be escaped in an address (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A segment of the path of an address; a `/` in it is escaped.
fn escaped(part: &str) -> String {
    utf8_percent_encode(part, RESERVED).to_string()
}

/// The run as the server knows it.
pub struct Remote {
    /// `/project/W/P`
    project: String,
    /// `/projects/W/P`
    series: String,
    /// The project.
    pub project_id: String,
    /// The experiment.
    pub experiment_id: String,
    /// Its page.
    pub page: String,
    /// Whether the server had it already.
    pub known: bool,
    /// When it was made, if the server tells.
    created: Option<String>,
    /// Whether columns go to the newer address.
    pub new_columns: bool,
}

/// The last entries of a run on the server.
#[derive(Debug, Default)]
pub struct Summary {
    /// The last step of each key.
    pub steps: Vec<(String, i64)>,
    /// The number of the last line.
    pub lines: i64,
}

impl Remote {
    /// Finds or makes project and experiment.
    pub fn open(session: &mut Session, start: &Start, web_host: &str) -> Result<Self, Failure> {
        let workspace = match start.workspace.as_str() {
            "" => session.user().username.clone(),
            workspace => workspace.to_owned(),
        };
        let found = project(session, &workspace, start)?;
        let name = found.text("name").unwrap_or(&start.project).to_owned();
        let group = found
            .body
            .get("group")
            .and_then(|group| group.get("username"));
        let workspace = group
            .and_then(Value::as_str)
            .unwrap_or(&workspace)
            .to_owned();
        let count = found
            .body
            .get("_count")
            .and_then(|count| count.get("experiments"));
        let count = count.and_then(Value::as_u64).unwrap_or(0) as usize;
        let place = format!("{}/{}", escaped(&workspace), escaped(&name));
        let path = found.text("path").map(str::to_owned);
        let path = path.unwrap_or_else(|| format!("/@{workspace}/{name}"));
        let project = format!("/project/{place}");
        if start.resume == resume::MUST {
            let run = format!("{project}/runs/{}", escaped(&start.id));
            session
                .call(&Method::GET, &run, None::<&()>)
                .map_err(|failure| match failure.is(404) {
                    true => Failure::Invalid(format!(
                        "SWANLAB_RESUME is must, and there is no run {} in {place}",
                        start.id
                    )),
                    false => failure,
                })?;
        }
        let color = match start.color.as_str() {
            "" => COLORS[count % COLORS.len()],
            color => color,
        };
        let body = experiment(start, color);
        let made = session.call(&Method::POST, &format!("{project}/experiment"), Some(&body))?;
        let experiment_id = made.needs("cuid", "the experiment")?;
        let slug = made.text("slug").filter(|slug| !slug.is_empty());
        Ok(Self {
            page: format!("{web_host}{path}/runs/{}", slug.unwrap_or(&experiment_id)),
            series: format!("/projects/{place}/series"),
            project_id: found.needs("cuid", "the project")?,
            known: made.status == 200,
            created: made.text("createdAt").map(str::to_owned),
            new_columns: found.body.get("version").and_then(Value::as_i64) == Some(1),
            project,
            experiment_id,
        })
    }

    fn run(&self) -> String {
        format!("{}/runs/{}", self.project, escaped(&self.experiment_id))
    }

    /// The last entries of a run that the server had already.
    pub fn summary(&self, session: &mut Session) -> Result<Summary, Failure> {
        let created = match &self.created {
            Some(time) => Some(time.clone()),
            None => {
                let found = session.call(&Method::GET, &self.run(), None::<&()>)?;
                found.text("createdAt").map(str::to_owned)
            }
        };
        let created = created.and_then(|time| chrono::DateTime::parse_from_rfc3339(&time).ok());
        let path = format!(
            "/house/metrics/summaries/{}/{}?all=True&createdAt={}",
            escaped(&self.project_id),
            escaped(&self.experiment_id),
            created.map_or(0, |time| time.timestamp())
        );
        let reply = session.call(&Method::GET, &path, None::<&()>)?;
        let entries = |kind: &str| {
            let list = reply.body.get(kind).and_then(Value::as_array);
            let list = list.map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(|entry| {
                let step = entry.get("step")?;
                let step = step.as_i64().or_else(|| Some(step.as_f64()? as i64))?;
                Some((entry.get("key")?.as_str()?.to_owned(), step))
            })
        };
        let lines = reply.body.get("log").and_then(Value::as_array);
        let lines = lines.and_then(|log| log.first()?.get("step")?.as_i64());
        Ok(Summary {
            steps: entries("scalar").chain(entries("media")).collect(),
            lines: lines.unwrap_or(0),
        })
    }

    /// Sends a heartbeat.
    pub fn heartbeat(&self, session: &mut Session) -> Result<(), Failure> {
        let path = format!(
            "/house/experiments/{}/heartbeat",
            escaped(&self.experiment_id)
        );
        let body = json!({"flagId": "123456"});
        session.call(&Method::POST, &path, Some(&body)).map(drop)
    }

    /// Sends configuration, machine and the like.
    pub fn profile(&self, session: &mut Session, body: &Value) -> Result<(), Failure> {
        let path = format!("{}/profile", self.run());
        session.call(&Method::PUT, &path, Some(body)).map(drop)
    }

    /// Announces keys.
    pub fn columns(&self, session: &mut Session, columns: &[Value]) -> Result<(), Failure> {
        let reply = match self.new_columns {
            true => session.call(
                &Method::POST,
                &self.series,
                Some(&json!({"series": columns})),
            ),
            false => {
                let path = format!("/experiment/{}/columns", escaped(&self.experiment_id));
                session.call(&Method::POST, &path, Some(columns))
            }
        };
        reply.map(drop)
    }

    /// Sends numbers, lines, or references to media.
    pub fn metrics<T: Serialize>(
        &self,
        session: &mut Session,
        kind: &str,
        metrics: &[T],
    ) -> Result<(), Failure> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a, T> {
            r#type: &'a str,
            project_id: &'a str,
            experiment_id: &'a str,
            metrics: &'a [T],
        }
        let body = Body {
            r#type: kind,
            project_id: &self.project_id,
            experiment_id: &self.experiment_id,
            metrics,
        };
        session
            .call(&Method::POST, "/house/metrics", Some(&body))
            .map(drop)
    }

    /// Addresses for the upload of files.
    ///
    /// # Errors
    /// The server does not answer, refuses, or gives too few.
    pub fn addresses(&self, session: &mut Session, paths: &[&str]) -> Result<Vec<String>, Failure> {
        let body = json!({"experimentId": self.experiment_id, "paths": paths});
        let reply = session.call(&Method::POST, "/resources/presigned/put", Some(&body))?;
        let urls = reply.body.get("urls").and_then(Value::as_array);
        let urls: Vec<String> = urls
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .filter_map(|url| url.as_str().map(str::to_owned))
            .collect();
        match urls.len() == paths.len() {
            true => Ok(urls),
            false => Err(Failure::Invalid(format!(
                "the server gave {} addresses for {} files",
                urls.len(),
                paths.len()
            ))),
        }
    }

    /// Reports how the run ended.
    pub fn finish(&self, session: &mut Session, how: i32) -> Result<(), Failure> {
        let word = match how {
            state::CRASHED => "CRASHED",
            state::ABORTED => "ABORTED",
            _ => "FINISHED",
        };
        let body = json!({"state": word, "finishedAt": Timestamp::now().text(), "from": "sdk"});
        let path = format!("{}/state", self.run());
        session.call(&Method::PUT, &path, Some(&body)).map(drop)
    }
}

/// The project, made if it is not there.
fn project(session: &mut Session, workspace: &str, start: &Start) -> Result<Reply, Failure> {
    let path = format!(
        "/project/{}/{}",
        escaped(workspace),
        escaped(&start.project)
    );
    match session.call(&Method::GET, &path, None::<&()>) {
        Err(failure) if failure.is(404) => {}
        found => return found,
    }
    let visibility = if start.public { "PUBLIC" } else { "PRIVATE" };
    let body = json!({"name": start.project, "visibility": visibility});
    let all = format!("/projects/{}", escaped(workspace));
    match session.call(&Method::POST, &all, Some(&body)) {
        Err(failure) if failure.is(404) => {
            // An old server has another answer.
            let body =
                json!({"name": start.project, "visibility": visibility, "username": workspace});
            match session.call(&Method::POST, "/project", Some(&body)) {
                Err(failure) if failure.is(409) => {}
                made => drop(made?),
            }
        }
        made => drop(made?),
    }
    session.call(&Method::GET, &path, None::<&()>)
}

/// The body that makes an experiment; keys without a value are left out.
fn experiment(start: &Start, color: &str) -> Map<String, Value> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| match &value {
        Value::String(text) if text.is_empty() => {}
        Value::Array(items) if items.is_empty() => {}
        _ => drop(body.insert(name.to_owned(), value)),
    };
    put("name", start.name.clone().into());
    put("description", start.description.clone().into());
    put("createdAt", Timestamp::now().text().into());
    put("colors", json!([color, color]));
    let labels = start.tags.iter().map(|tag| json!({"name": tag}));
    put("labels", labels.collect());
    put("job", start.job_type.clone().into());
    put("cluster", start.group.clone().into());
    put("cuid", start.id.clone().into());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_is_not_sent() {
        let start = Start {
            name: "run".to_owned(),
            id: "abcd1234".to_owned(),
            ..Start::default()
        };
        let body = experiment(&start, "#528d59");
        let keys: Vec<&str> = body.keys().map(String::as_str).collect();
        assert_eq!(keys, ["name", "createdAt", "colors", "cuid"]);
        assert_eq!(escaped("a/b ü"), "a%2Fb%20%C3%BC");
    }
}
