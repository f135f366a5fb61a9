//! Samplers: orders of rows that there are, the same in another instance, also after a checkpoint.

use super::run::SmallRun;
use super::{Checked, Finding, Findings, push};
use anyhow::{Result, ensure};
use apus_components::registry::Named;
use apus_sdk::testing::Rows;
use apus_sdk::{Need, RowLoss, Sampler};
use serde_json::Value;

/// Epochs that are asked for.
const EPOCHS: usize = 4;
/// The epoch before which a checkpoint is made.
const RESUMED: usize = 2;

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let run = SmallRun::new(checked.device)?;
    let mut made = checked.make::<dyn Sampler>()?;
    if !run.begins(findings, &mut made, |sampler, run| sampler.begin(run)) {
        return Ok(());
    }
    let of = Of { checked, run };
    for count in [1, 7, 1000] {
        let orders = of.orders(count, None);
        let found = orders.as_ref().map(|orders| said(&orders[0], count));
        let found = found.map_err(|error| anyhow::anyhow!("{error:#}"));
        let failed = found.is_err();
        push(findings, &format!("{EPOCHS} epochs of {count} rows"), found);
        if failed {
            return Ok(());
        }
    }
    push(findings, "the same orders again", of.repeats());
    push(
        findings,
        "the same orders from a checkpoint on",
        of.resumes(),
    );
    if made.declares(Need::Losses) {
        findings.push(Finding::Good("sees losses of rows".to_owned()));
    }
    Ok(())
}

/// Rows of many lengths, from two datasets and two channels, of which each second was trained.
fn rows(count: usize) -> Rows {
    let lengths: Vec<usize> = (0..count).map(|row| 1 + row * 7919 % 500).collect();
    let each = |start: usize, step: usize| -> Vec<usize> { (start..count).step_by(step).collect() };
    let mut rows = Rows::new(&lengths)
        .dataset("a.jsonl", &each(0, 3))
        .dataset("b.jsonl", &each(1, 3))
        .channel("maths", &each(0, 2))
        .channel("code", &each(1, 4));
    for row in each(0, 2) {
        let loss = (row * 31 % 17) as f64 / 8.0;
        rows = rows.loss(row, RowLoss::default().and(loss));
    }
    rows
}

struct Of<'a> {
    checked: &'a Checked<'a>,
    run: SmallRun,
}

impl Of<'_> {
    /// The orders of some epochs; with `resumed` from there on by another instance that has the state of the first.
    fn orders(&self, count: usize, resumed: Option<usize>) -> Result<Vec<Vec<usize>>> {
        let begin =
            |made: &mut Named<dyn Sampler>| self.run.begin(made, |made, run| made.begin(run));
        let mut made = self.checked.make::<dyn Sampler>()?;
        begin(&mut made)?;
        let mut rows = rows(count);
        if made.declares(Need::Columns) {
            for name in made.context("columns", made.component.columns())? {
                let values: Vec<Value> = (0..count).map(|row| (row * 13 % 7).into()).collect();
                rows = rows.column(&name, &values);
            }
        }
        let mut orders = Vec::new();
        for epoch in 0..EPOCHS {
            if resumed == Some(epoch) {
                let state = made.context("save_state", made.component.save_state())?;
                made = self.checked.make()?;
                let loaded = made.component.load_state(state);
                made.context("load_state", loaded)?;
                begin(&mut made)?;
            }
            let order = rows.order(&mut *made.component, epoch);
            orders.push(made.context("order", order)?);
        }
        Ok(orders)
    }

    fn repeats(&self) -> Result<String> {
        let (first, second) = (self.orders(100, None)?, self.orders(100, None)?);
        ensure!(
            first == second,
            "another instance takes the rows in another order: an order follows from epoch, options and state alone, with \
             random numbers from Epoch::random"
        );
        Ok(String::new())
    }

    fn resumes(&self) -> Result<String> {
        let (whole, resumed) = (self.orders(100, None)?, self.orders(100, Some(RESUMED))?);
        ensure!(
            whole == resumed,
            "after {RESUMED} epochs another instance with the state of save_state goes on in another order: what it keeps from \
             one epoch to the next belongs into save_state and load_state"
        );
        Ok(String::new())
    }
}

/// What an order takes of these rows.
fn said(order: &[usize], rows: usize) -> String {
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    match sorted.len() == rows && order.len() == rows {
        true => "each row once".to_owned(),
        false => format!("{} places for {} of {rows} rows", order.len(), sorted.len()),
    }
}
