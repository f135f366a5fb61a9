//! Loss scales: which parts of a conversation are trained, and how much.
