//! Which plugin's component this thread is in, for messages about a library that ends the process.
//!
//! Such a message is written by a signal handler, which may neither wait nor allocate. So what is kept here are texts that stay
//! for good, in places of the thread's own that need no initialisation.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// How many calls inside of each other are told apart.
const DEPTH: usize = 8;

struct Stack {
    depth: Cell<usize>,
    labels: [Cell<&'static str>; DEPTH],
}

thread_local! {
    static STACK: Stack = const {
        Stack { depth: Cell::new(0), labels: [const { Cell::new("") }; DEPTH] }
    };
}

/// The component that this thread is in; for a signal handler, too.
#[doc(hidden)]
pub fn running() -> Option<&'static str> {
    STACK
        .try_with(|stack| {
            let last = stack.depth.get().checked_sub(1)?;
            Some(stack.labels[last].get())
        })
        .ok()
        .flatten()
}

/// This text for good. There are as many as components are made under different names, which are few.
pub(super) fn lasting(text: &str) -> &'static str {
    static TEXTS: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.get(text) {
        return known;
    }
    let text: &'static str = Box::leak(text.into());
    texts.insert(text);
    text
}

/// This thread goes into the component of this [`lasting`] label; nothing happens if it is there.
pub(super) fn enter(label: &'static str) {
    STACK.with(|stack| {
        let depth = stack.depth.get();
        let is_there = depth > 0 && std::ptr::eq(stack.labels[depth - 1].get(), label);
        if !is_there && depth < DEPTH {
            stack.labels[depth].set(label);
            stack.depth.set(depth + 1);
        }
    });
}

/// This thread has come back from that component.
pub(super) fn leave(label: &'static str) {
    STACK.with(|stack| {
        let entered = &stack.labels[..stack.depth.get()];
        let found = entered
            .iter()
            .rposition(|known| std::ptr::eq(known.get(), label));
        if let Some(depth) = found {
            stack.depth.set(depth);
        }
    });
}

/// Makes a call of the component with this label.
pub(super) fn inside<T>(label: &'static str, call: impl FnOnce() -> T) -> T {
    enter(label);
    let result = call();
    leave(label);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_inside_of_each_other_are_told_apart() {
        let (a, b) = (lasting("loss a"), lasting("loss b"));
        assert!(std::ptr::eq(a, lasting("loss a")));
        assert_eq!(running(), None);
        enter(a);
        enter(a);
        let inner = inside(b, running);
        assert_eq!((inner, running()), (Some("loss b"), Some("loss a")));
        std::thread::spawn(|| assert_eq!(running(), None))
            .join()
            .unwrap();
        leave(b);
        enter(b);
        leave(a);
        assert_eq!(
            running(),
            None,
            "whoever comes back has left what it called"
        );
    }

    #[test]
    fn too_deep_is_the_last_one_known() {
        let labels: Vec<&str> = (0..20).map(|i| lasting(&format!("deep {i}"))).collect();
        labels.iter().for_each(|label| enter(label));
        assert_eq!(running(), Some("deep 7"));
        labels.iter().rev().for_each(|label| leave(label));
        assert_eq!(running(), None);
    }
}
