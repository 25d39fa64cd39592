//! The house rules as tests: who may use whom, what may not appear in a source, and that what the documents promise has a test.
//!
//! Each rule is a function from the tree to a list of faults, tried twice: on a small tree that breaks it, where it must find the
//! fault, and on this repository, where it must find none. Reads files only; `cargo metadata` is the one program it starts.

mod crates;
mod documents;
mod lexer;
mod rpc;
mod sources;
mod supply;
mod top;
mod tree;

/// Fails with every fault, one for each line, so that one run shows all of them.
fn none(faults: Vec<String>) {
    assert!(
        faults.is_empty(),
        "{} fault(s):\n  {}",
        faults.len(),
        faults.join("\n  ")
    );
}

/// Fails unless the rule found exactly this many faults in a tree that breaks it.
fn found(faults: Vec<String>, expected: usize) {
    assert_eq!(faults.len(), expected, "{faults:#?}");
}
