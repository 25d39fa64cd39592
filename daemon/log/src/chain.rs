//! An error with all its causes.

use std::{error::Error, fmt};

/// Causes that are shown at most; a longer chain has to be a loop.
const DEPTH_MAX: usize = 32;

/// Shows an error and every cause below it on one line: `open rootfs /x: permission denied (os error 13)`.
///
/// Our errors do not repeat their source in their own text, so this is what a log line or a message on stderr should contain.
/// A cause whose text already ends the line (as errors of other crates often do) is not said twice.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        out.write_str(&said)?;
        let mut next = self.0.source();
        for _ in 0..DEPTH_MAX {
            let Some(cause) = next else { break };
            let text = cause.to_string();
            if !said.ends_with(&text) {
                write!(out, ": {text}")?;
            }
            said = text;
            next = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct Step(&'static str, Option<Box<dyn Error>>);

    impl fmt::Display for Step {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str(self.0)
        }
    }

    impl Error for Step {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref()
        }
    }

    fn check(error: &dyn Error, expected: &str) {
        assert_eq!(Chain(error).to_string(), expected);
    }

    #[test]
    fn every_cause_is_shown_once() {
        check(&Step("alone", None), "alone");
        check(
            &Step(
                "open",
                Some(Box::new(Step(
                    "look",
                    Some(Box::new(io::Error::other("disk gone"))),
                ))),
            ),
            "open: look: disk gone",
        );
        check(
            &Step(
                "send: broken pipe",
                Some(Box::new(Step("broken pipe", None))),
            ),
            "send: broken pipe",
        );
    }

    #[test]
    fn endless_chain_ends() {
        #[derive(Debug)]
        struct Loop;
        impl fmt::Display for Loop {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("again")
            }
        }
        impl Error for Loop {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self)
            }
        }
        check(&Loop, "again");
    }
}
