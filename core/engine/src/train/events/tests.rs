//! Events that reach callbacks, and what callbacks may report.

use super::*;
use serde_json::json;

/// Does what a function says in `on_step_end`, and another one in `on_log`.
#[derive(Default)]
struct Does(
    Option<fn(&mut Control)>,
    Option<fn(&mut Map<String, Value>)>,
);
impl Callback for Does {
    fn on_step_end(&mut self, _: &RunState, control: &mut Control) -> apus_sdk::Result<()> {
        self.0.into_iter().for_each(|act| act(control));
        Ok(())
    }
    fn on_log(
        &mut self,
        values: &mut Map<String, Value>,
        _: &RunState,
        _: &mut Control,
    ) -> apus_sdk::Result<()> {
        self.1.into_iter().for_each(|act| act(values));
        Ok(())
    }
    fn on_save(&mut self, _: &Path, _: &RunState, _: &mut Control) -> apus_sdk::Result<()> {
        Err("disk on fire".into())
    }
}

fn events(callbacks: [Does; 2]) -> Events {
    let labels = ["callback one", "callback two"];
    let named = labels
        .into_iter()
        .zip(callbacks)
        .map(|(label, callback)| Named::<dyn Callback>::new(label, Box::new(callback)));
    Events::new(named.collect())
}

fn on_step(act: fn(&mut Control)) -> Does {
    Does(Some(act), None)
}

fn line(events: &mut Events, values: Value) -> Result<Map<String, Value>> {
    let Value::Object(mut values) = values else {
        unreachable!()
    };
    events.on_log(&mut values, &RunState::default())?;
    Ok(values)
}

#[test]
fn requests_reach_the_trainer() {
    let mut events = events([
        on_step(|control| {
            control.should_training_stop = true;
            control.lr_factor = Some(0.5);
            control.metrics.insert("mine".to_owned(), 2.into());
        }),
        // Another one does not take back what the first asked for.
        on_step(|control| {
            control.should_save = true;
            control.should_training_stop = false;
            control.lr_factor = None;
        }),
    ]);
    events.on_step_end(&RunState::default()).unwrap();
    assert_eq!(events.stopped(), Some("callback one, on_step_end"));
    assert!(events.control.should_training_stop);
    assert_eq!(events.lr_factor(), 0.5);
    let asked = events.take_requests();
    assert!(asked.save && !asked.log && !asked.evaluate);
    assert!(!events.take_requests().save);
    assert_eq!(events.reported()["mine"], 2);
    let logged = line(&mut events, json!({"loss": 1.0})).unwrap();
    assert_eq!(Value::Object(logged), json!({"loss": 1.0, "mine": 2}));
    assert!(events.control.metrics.is_empty());
}

#[test]
fn errors_name_their_callback() {
    let mut events = events(Default::default());
    let error = events.on_save(Path::new("c"), &RunState::default());
    let error = format!("{:#}", error.unwrap_err());
    assert_eq!(error, "callback one, on_save: disk on fire");
}

#[test]
fn a_metric_is_a_finite_number_under_a_name_of_its_own() {
    for (act, says) in [
        (
            (|control| drop(control.metrics.insert("loss".to_owned(), 0.into())))
                as fn(&mut Control),
            "callback two, on_step_end: reports \"loss\", which is the run's own number",
        ),
        (
            |control| drop(control.metrics.insert("x".to_owned(), json!(f64::NAN))),
            "callback two, on_step_end: reports null as \"x\"",
        ),
        (
            |control| drop(control.metrics.insert("x".to_owned(), "7".into())),
            "callback two, on_step_end: reports \"7\" as \"x\"",
        ),
        (
            |control| drop(control.metrics.insert("mine".to_owned(), 8.into())),
            "callback two reports \"mine\", as callback one does",
        ),
    ] {
        let first = |control: &mut Control| {
            control.metrics.insert("mine".to_owned(), 7.into());
        };
        let mut events = events([on_step(first), on_step(act)]);
        let error = events.on_step_end(&RunState::default()).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.starts_with(says), "{error}");
    }
    // What only shows when it is logged.
    for (act, says) in [
        (
            (|values| drop(values.insert("loss".to_owned(), 0.into())))
                as fn(&mut Map<String, Value>),
            "callback two, on_log: changes \"loss\"",
        ),
        (
            |values| drop(values.shift_remove("loss")),
            "callback two, on_log: changes \"loss\"",
        ),
        (
            |values| drop(values.insert("x".to_owned(), Value::Null)),
            "callback two, on_log: reports null as \"x\"",
        ),
    ] {
        let mut events = events([Does::default(), Does(None, Some(act))]);
        let error = line(&mut events, json!({"loss": 1.0})).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.starts_with(says), "{error}");
    }
    let of_a_metric = |control: &mut Control| {
        control.metrics.insert("eval_f1".to_owned(), 1.into());
    };
    let mut events = events([on_step(of_a_metric), Does::default()]);
    events.on_step_end(&RunState::default()).unwrap();
    let error = line(&mut events, json!({"eval_f1": 0.5})).unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.starts_with("callback one reports \"eval_f1\", which this line"),
        "{error}"
    );
}
