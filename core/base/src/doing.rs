//! Which component this process is in, for messages about one that does not come back.

use std::sync::{Mutex, PoisonError};

static NOW: Mutex<Option<String>> = Mutex::new(None);

/// The component that this process is in.
pub fn now() -> Option<String> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A component is called as long as this is kept.
pub struct Inside(Option<String>);

/// This process calls `function` of the component with this label.
pub fn enter(label: &str, function: &str) -> Inside {
    let mut now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
    Inside(now.replace(format!("{label}, {function}")))
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
        *now = self.0.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_may_be_called_inside_of_another() {
        let outer = enter("optimizer a", "step");
        {
            let _inner = enter("loss b", "per_token");
            assert_eq!(now().as_deref(), Some("loss b, per_token"));
        }
        assert_eq!(now().as_deref(), Some("optimizer a, step"));
        drop(outer);
        assert_eq!(now(), None);
    }
}
