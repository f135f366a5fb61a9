//! What a step offers beside its parameters: their groups, and its passes once more.

use crate::needs::require;
use crate::{Error, Need, Options, Result, StepInfo};
use serde::{Deserialize, Serialize};

/// Parameters that a run treats alike (`optimizer.groups`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ParameterGroup {
    name: String,
    options: Options,
}

impl ParameterGroup {
    /// A group of this name with these options of its own.
    pub fn new(name: impl Into<String>, options: Options) -> Self {
        Self {
            name: name.into(),
            options,
        }
    }

    /// Its name, or its patterns where the run gives it none; empty for the parameters that belong to no group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The options of the optimizer that the group has its own values of.
    pub fn options(&self) -> &Options {
        &self.options
    }
}

/// Runs the passes of a step once more; returns its loss.
pub(crate) type Again<'a> = &'a mut (dyn FnMut() -> Result<f64> + 'a);

/// A step as [`Optimizer::step_with`](crate::Optimizer::step_with) sees it.
pub struct OptimizerStep<'a> {
    info: StepInfo,
    groups: Option<Grouping<'a>>,
    again: Option<Again<'a>>,
}

/// The groups, and that of each parameter.
#[derive(Clone, Copy)]
pub(crate) struct Grouping<'a> {
    pub(crate) groups: &'a [ParameterGroup],
    pub(crate) members: &'a [usize],
}

impl<'a> OptimizerStep<'a> {
    /// A step that offers nothing else.
    pub fn new(info: StepInfo) -> Self {
        Self {
            info,
            groups: None,
            again: None,
        }
    }

    /// With these groups; `members` has the place in them of each parameter's.
    pub fn with_groups(mut self, groups: &'a [ParameterGroup], members: &'a [usize]) -> Self {
        self.groups = Some(Grouping { groups, members });
        self
    }

    /// With this function that runs the passes once more.
    pub fn with_closure(mut self, again: &'a mut (dyn FnMut() -> Result<f64> + 'a)) -> Self {
        self.again = Some(again);
        self
    }

    /// Where in the run it is.
    pub fn info(&self) -> StepInfo {
        self.info
    }

    /// The group of the parameter at this place.
    ///
    /// # Errors
    /// The optimizer does not declare `Need::Groups`, or there is no such parameter.
    pub fn group(&self, at: usize) -> Result<&ParameterGroup> {
        let Some(Grouping { groups, members }) = self.groups else {
            return Err(undeclared(Need::Groups));
        };
        let group = members.get(at).and_then(|&member| groups.get(member));
        group.ok_or_else(|| {
            Error::new(format!(
                "there is no parameter {at}, the step has {}",
                members.len()
            ))
        })
    }

    /// Runs the forward and backward passes of the step once more, with the parameters as they are now, and returns the
    /// loss. The gradients of all parameters are overwritten with those of this pass, clipped as those of the step;
    /// `grad.affine(1.0, 0.0)` is a copy of what was there.
    ///
    /// # Errors
    /// The optimizer does not declare `Need::Closure`; what ends a pass.
    pub fn evaluate(&mut self) -> Result<f64> {
        match &mut self.again {
            Some(again) => again(),
            None => Err(undeclared(Need::Closure)),
        }
    }

    /// What crosses the boundary.
    pub(crate) fn parts(&mut self) -> (Option<Grouping<'a>>, Option<Again<'_>>) {
        let again = self.again.as_mut();
        (self.groups, again.map(|again| &mut **again as Again))
    }
}

/// What is not given was not declared.
fn undeclared(need: Need) -> Error {
    match require(need) {
        Err(error) => error,
        Ok(()) => need.undeclared(&[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_declared_is_not_given() {
        let mut step = OptimizerStep::new(StepInfo { step: 3 });
        assert_eq!(step.info().step, 3);
        let said = step.group(0).unwrap_err().to_string();
        assert!(said.contains("Need::Groups]"), "{said}");
        let said = step.evaluate().unwrap_err().to_string();
        assert!(said.contains("Need::Closure]"), "{said}");
    }

    #[test]
    fn groups_by_parameter_and_passes_as_often_as_asked() {
        let groups = [
            ParameterGroup::default(),
            ParameterGroup::new("b", Options::new()),
        ];
        let mut passes = 0;
        let mut again = || {
            passes += 1;
            Ok(f64::from(passes))
        };
        let mut step = OptimizerStep::new(StepInfo { step: 1 })
            .with_groups(&groups, &[1, 0])
            .with_closure(&mut again);
        assert_eq!(step.group(0).unwrap().name(), "b");
        assert_eq!(step.group(1).unwrap().name(), "");
        assert!(
            step.group(2)
                .unwrap_err()
                .to_string()
                .contains("the step has 2")
        );
        assert_eq!(step.evaluate().unwrap() + step.evaluate().unwrap(), 3.0);
    }
}
