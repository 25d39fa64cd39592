//! Running tests that need more than every machine has: each one runs, or says why it does not.
//!
//! The lines look like those of cargo's own tests, with one more word: `skipped`, and the reason. A run in which something was
//! skipped says so at its end; only a failure makes it fail.

#![allow(clippy::print_stdout, reason = "this is what a test program says")]

use std::{
    env,
    future::Future,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    process::ExitCode,
    time::Instant,
};

/// One test.
pub struct Case {
    /// Its name, which is its claim.
    pub name: &'static str,
    /// What it does; it fails by panicking.
    pub run: fn() -> Pin<Box<dyn Future<Output = ()>>>,
    /// Why it cannot run here, if it cannot.
    pub skip: fn() -> Option<String>,
}

/// Cases from async functions: `cases![needs_root; one_thing_holds, another_thing_holds]`.
#[macro_export]
macro_rules! cases {
    ($skip:path; $($name:ident),+ $(,)?) => {
        vec![$($crate::report::Case { name: stringify!($name), run: || Box::pin($name()), skip: $skip }),+]
    };
}

/// Runs the cases whose names contain a word of the command line, all of them without one, one after the other.
#[must_use]
pub fn run(cases: Vec<Case>) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let cases: Vec<Case> = cases
        .into_iter()
        .filter(|case| {
            wanted.is_empty() || wanted.iter().any(|word| case.name.contains(word.as_str()))
        })
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for case in &cases {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", cases.len());
    let began = Instant::now();
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), Vec::new());
    for case in cases {
        print!("test {} ... ", case.name);
        // The line is finished when the test is; who watches wants to see which one runs.
        let _ = std::io::stdout().flush();
        if let Some(reason) = (case.skip)() {
            println!("skipped: {reason}");
            skipped.push((case.name, reason));
            continue;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        match catch_unwind(AssertUnwindSafe(|| runtime.block_on((case.run)()))) {
            Ok(()) => {
                println!("ok");
                passed += 1;
            }
            Err(_) => {
                println!("FAILED");
                failed.push(case.name);
            }
        }
    }
    if !skipped.is_empty() {
        println!("\nskipped:");
        for (name, reason) in &skipped {
            println!("    {name}: {reason}");
        }
    }
    if !failed.is_empty() {
        println!("\nfailures:\n    {}", failed.join("\n    "));
    }
    let outcome = if failed.is_empty() { "ok" } else { "FAILED" };
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "\ntest result: {outcome}. {passed} passed; {} failed; {} skipped; finished in {seconds:.2}s\n",
        failed.len(),
        skipped.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
