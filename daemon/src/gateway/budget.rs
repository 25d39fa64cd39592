//! How many retries the traffic of a provider pays for: a provider that fails is not given more to do because it fails.

/// What a retry costs, in the unit that each question pays in: a tenth.
const PRICE: u32 = 10;

/// What is saved at most, and at the start: ten retries, so that a quiet provider can be asked again, too.
const MOST: u32 = 10 * PRICE;

/// A token bucket. Over any stretch of time, retries are at most a tenth of the questions, and ten more.
#[derive(Debug, Clone, Copy)]
pub struct Budget(u32);

impl Default for Budget {
    fn default() -> Self {
        Self(MOST)
    }
}

impl Budget {
    /// A question was asked.
    pub fn asked(&mut self) {
        self.0 = (self.0 + 1).min(MOST);
    }

    /// Whether there is a retry; it is spent.
    pub fn take(&mut self) -> bool {
        match self.0.checked_sub(PRICE) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn retries_are_at_most_a_tenth_of_the_questions_and_ten_more(steps: Vec<bool>) {
            let mut budget = Budget::default();
            let (mut questions, mut retries) = (0, 0);
            for retry in steps {
                if retry {
                    retries += u32::from(budget.take());
                } else {
                    questions += 1;
                    budget.asked();
                }
                prop_assert!(retries * PRICE <= questions + MOST);
            }
        }
    }

    #[test]
    fn ten_questions_pay_for_a_retry() {
        let mut budget = Budget(0);
        for _ in 0..9 {
            budget.asked();
        }
        assert!(!budget.take());
        budget.asked();
        assert!(budget.take());
        assert!(!budget.take());
    }
}
