//! What the server does with each request, and what it does not let pass.

use super::http::{Answer, Request};
use super::{Experiment, KEY, World};
use serde_json::{Value, json};

fn refuse(world: &mut World, why: String) -> Answer {
    world.violations.push(why.clone());
    Answer::json(400, json!({"code": "BadRequest", "message": why}))
}

fn not_found(what: &str) -> Answer {
    Answer::json(404, json!({"code": "Not_Found", "message": what}))
}

pub fn route(world: &mut World, base: &str, request: &Request) -> Answer {
    let (method, path) = (request.method.as_str(), request.path.as_str());
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if parts[0] == "oss" {
        if request.headers.contains_key("cookie") {
            return refuse(
                world,
                format!("{path}: a signed address got the session's cookie"),
            );
        }
        world
            .objects
            .insert(parts[2..].join("/"), request.body.clone());
        return Answer::json(200, Value::Null);
    }
    if parts[0] == "robot" {
        world.objects.insert(path.to_owned(), request.body.clone());
        return Answer::json(200, json!({"errcode": 0}));
    }
    if path == "/api/login/api_key" {
        return login(world, request);
    }
    let cookie = request
        .headers
        .get("cookie")
        .and_then(|c| c.strip_prefix("sid="));
    if !cookie.is_some_and(|sid| world.sessions.contains(sid)) {
        return Answer::json(
            401,
            json!({"code": "Unauthorized", "message": "no session"}),
        );
    }
    if request
        .headers
        .get("x-swanlab-sdk-version")
        .map(String::as_str)
        != Some("0.10.3")
    {
        return refuse(world, format!("{path}: no version"));
    }
    if request.headers.contains_key("authorization") {
        return refuse(world, format!("{path}: the key went along"));
    }
    let body = request.json();
    match (method, &parts[1..]) {
        ("GET", ["project", w, p]) => project(world, w, p),
        ("POST", ["projects", w]) if !world.legacy => {
            let new = world.projects.insert((w.to_string(), text(&body, "name")));
            Answer::json(if new { 201 } else { 200 }, json!({}))
        }
        ("POST", ["project"]) => {
            let new = world
                .projects
                .insert((text(&body, "username"), text(&body, "name")));
            Answer::json(if new { 201 } else { 409 }, json!({}))
        }
        ("POST", ["project", w, p, "experiment"]) => experiment(world, w, p, body),
        ("GET", ["project", _, _, "runs", id]) => match world.experiments.get(*id) {
            Some(_) => Answer::json(
                200,
                json!({"cuid": id, "createdAt": "2026-11-25T10:00:00.000Z"}),
            ),
            None => not_found("run"),
        },
        ("PUT", ["project", _, _, "runs", id, "profile"]) => with(world, id, |e| {
            let Some(one) = body.as_object().filter(|o| o.len() == 1) else {
                return Err("a profile is one thing at a time".to_owned());
            };
            e.profile.extend(one.clone());
            Ok(())
        }),
        ("PUT", ["project", _, _, "runs", id, "state"]) => with(world, id, |e| {
            if body["from"] != "sdk" || body["finishedAt"].as_str().is_none() {
                return Err(format!("state {body}"));
            }
            e.states.push(text(&body, "state"));
            Ok(())
        }),
        ("POST", ["projects", _, p, "series"]) if !world.legacy => {
            let ids: Vec<String> = world
                .experiments
                .iter()
                .filter(|(_, e)| e.project == *p)
                .map(|(id, _)| id.clone())
                .collect();
            let mut answer = not_found("project");
            for id in ids {
                answer = columns(world, &id, &body["series"]);
            }
            answer
        }
        ("POST", ["experiment", id, "columns"]) if world.legacy => columns(world, id, &body),
        ("POST", ["house", "experiments", id, "heartbeat"]) => with(world, id, |e| {
            e.heartbeats += 1;
            (body["flagId"] == "123456")
                .then_some(())
                .ok_or("flagId".to_owned())
        }),
        ("GET", ["house", "metrics", "summaries", _, id]) => summary(world, id, &request.query),
        ("POST", ["house", "metrics"]) => metrics(world, &body),
        ("POST", ["resources", "presigned", "put"]) => {
            let paths = body["paths"].as_array().cloned().unwrap_or_default();
            let urls = paths
                .iter()
                .map(|p| format!("{base}/oss/bucket/{}?X-Sig=1", p.as_str().unwrap()));
            Answer::json(200, json!({"urls": urls.collect::<Vec<_>>()}))
        }
        _ => not_found("no such route"),
    }
}

fn text(body: &Value, field: &str) -> String {
    body[field].as_str().unwrap_or_default().to_owned()
}

fn with(
    world: &mut World,
    id: &str,
    act: impl FnOnce(&mut Experiment) -> Result<(), String>,
) -> Answer {
    match world.experiments.get_mut(id).map(act) {
        None => not_found("experiment"),
        Some(Ok(())) => Answer::json(200, json!({})),
        Some(Err(why)) => refuse(world, why),
    }
}

fn login(world: &mut World, request: &Request) -> Answer {
    world.logins += 1;
    if !request.body.is_empty() || request.method != "POST" {
        return refuse(world, "a login has no body".to_owned());
    }
    if request.headers.get("authorization").map(String::as_str) != Some(KEY) {
        let said = request
            .headers
            .get("authorization")
            .cloned()
            .unwrap_or_default();
        return Answer::json(
            401,
            json!({"code": "Unauthorized", "message": format!("invalid api key {said}")}),
        );
    }
    let sid = format!("sid{}", world.logins);
    world.sessions.insert(sid.clone());
    let ends =
        chrono::Utc::now() + chrono::Duration::seconds((world.session_days * 86400.0) as i64);
    let ends = ends.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
    Answer::json(
        200,
        json!({"sid": sid, "expiredAt": ends, "userInfo": {"username": "tester", "name": "Tester"}}),
    )
}

fn project(world: &World, w: &str, p: &str) -> Answer {
    if !world.projects.contains(&(w.to_owned(), p.to_owned())) {
        return not_found("project");
    }
    let mut body = json!({"cuid": format!("pid-{p}"), "name": p, "path": format!("/@{w}/{p}"),
        "group": {"username": w}, "_count": {"experiments": world.experiments.len()}});
    if !world.legacy {
        body["version"] = 1.into();
    }
    Answer::json(200, body)
}

fn experiment(world: &mut World, w: &str, p: &str, body: Value) -> Answer {
    let id = text(&body, "cuid");
    if !world.projects.contains(&(w.to_owned(), p.to_owned())) {
        return not_found("project");
    }
    let empty = |v: &Value| v.is_null() || v == "" || v.as_array().is_some_and(Vec::is_empty);
    if id.is_empty() || body.as_object().unwrap().values().any(empty) {
        return refuse(world, format!("an experiment from {body}"));
    }
    let known = world.experiments.contains_key(&id);
    let made = world.experiments.entry(id.clone()).or_default();
    if !known {
        made.body = body.clone();
        made.project = p.to_owned();
    }
    let status = if known { 200 } else { 201 };
    Answer::json(
        status,
        json!({"cuid": id, "slug": id, "name": body["name"]}),
    )
}

fn columns(world: &mut World, id: &str, list: &Value) -> Answer {
    let legacy = world.legacy;
    let Some(list) = list.as_array().filter(|list| list.len() <= 3000) else {
        return refuse(world, "columns are a list of at most 3000".to_owned());
    };
    with(world, id, |e| {
        for column in list {
            let (key, kind) = (text(column, "key"), text(column, "type"));
            let system = key.starts_with("__swanlab__.");
            let fits = match (system, legacy) {
                (true, false) => kind == "SYSTEM",
                (true, true) => kind == "FLOAT" && column["class"] == "SYSTEM",
                _ => ["FLOAT", "TEXT", "IMAGE"].contains(&kind.as_str()),
            };
            if key.is_empty() || !fits || e.columns.insert(key, kind).is_some() {
                return Err(format!("column {column} is wrong or there already"));
            }
        }
        Ok(())
    })
}

fn summary(world: &World, id: &str, query: &str) -> Answer {
    let Some(e) = world.experiments.get(id) else {
        return not_found("experiment");
    };
    assert!(query.starts_with("all=True&createdAt=17"), "{query}");
    fn last<'a>(keys: impl Iterator<Item = &'a (String, i64)>) -> Vec<Value> {
        let mut steps = std::collections::BTreeMap::new();
        for (key, step) in keys {
            let last = steps.entry(key).or_insert(*step);
            *last = (*last).max(*step);
        }
        steps
            .iter()
            .map(|(key, step)| json!({"key": key, "step": step}))
            .collect()
    }
    let log = e
        .lines
        .keys()
        .max()
        .map(|line| json!({"key": "LOG", "step": line}));
    Answer::json(
        200,
        json!({
            "scalar": last(e.numbers.keys()),
            "media": last(e.media.keys()),
            "log": log.into_iter().collect::<Vec<_>>(),
        }),
    )
}

fn metrics(world: &mut World, body: &Value) -> Answer {
    let objects = world.objects.clone();
    let Some(list) = body["metrics"]
        .as_array()
        .filter(|m| !m.is_empty() && m.len() <= 10_000)
    else {
        return refuse(world, "metrics are 1 to 10000".to_owned());
    };
    let kind = text(body, "type");
    with(world, &text(body, "experimentId"), |e| {
        if body["projectId"] != format!("pid-{}", e.project) {
            return Err("projectId".to_owned());
        }
        for metric in list {
            let time = chrono::DateTime::parse_from_rfc3339(&text(metric, "create_time"));
            let place = (text(metric, "key"), metric["index"].as_i64().unwrap_or(-1));
            let fits = match kind.as_str() {
                "scalar" => {
                    (metric["data"].is_number() || metric["data"] == "nan")
                        && e.columns.contains_key(&place.0)
                        && e.numbers.insert(place, metric["data"].clone()).is_none()
                }
                "media" => {
                    let paths = metric["data"].as_array().cloned().unwrap_or_default();
                    let paths: Vec<String> = paths
                        .iter()
                        .map(|p| p.as_str().unwrap().to_owned())
                        .collect();
                    paths.iter().all(|path| objects.contains_key(path))
                        && e.columns.contains_key(&place.0)
                        && e.media.insert(place, paths).is_none()
                }
                "log" => {
                    let epoch = metric["epoch"].as_i64().unwrap_or(0);
                    let line = (text(metric, "level"), text(metric, "message"));
                    epoch > 0
                        && line.1.chars().count() <= 1024
                        && e.lines.insert(epoch, line).is_none()
                }
                _ => false,
            };
            if !fits || time.is_err() {
                return Err(format!(
                    "{kind} {metric} is wrong, there already, or before its column or file"
                ));
            }
        }
        Ok(())
    })
}
