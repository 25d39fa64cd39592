//! What was spent of each account, and what is set aside for attempts that are under way. Pure; what is stored it is told.
//!
//! ```text
//!  reserve ──there is room──► set aside ──settle──► spent ──stored──► forgotten here, because the store has it
//!     └──there is none──► over
//! ```
//!
//! An attempt may come to more than was set aside for it: that is spent all the same, and whoever comes next finds less.

use std::collections::BTreeMap;

use paw_store::{Account, Sum};
use uuid::Uuid;

/// What an account may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Cost, in millionths of the currency of the prices.
    pub cost: Option<u64>,
    /// Tokens.
    pub tokens: Option<u64>,
}

/// Why nothing is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Spent until now.
    pub spent: Sum,
    /// Set aside for others.
    pub reserved: Sum,
}

/// One account while something of it is set aside, or is not stored.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// Spent, and not given to the store yet.
    fresh: Sum,
    /// Spent, and on its way into the store.
    leaving: Sum,
    reserved: Sum,
    /// Attempts that something is set aside for.
    holds: u32,
}

/// All accounts that something happens to.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<Account, Entry>,
    /// What each action spent that is not stored with its end yet.
    spent: BTreeMap<Uuid, BTreeMap<Account, Sum>>,
}

impl Ledger {
    /// Whether so much can be set aside, of an account in which so much `stored` was spent.
    ///
    /// # Errors
    /// When it is more than is left. What costs nothing always finds room in a budget of costs.
    pub fn room(&self, account: &Account, most: Most, want: Sum, stored: Sum) -> Result<(), Over> {
        let (spent, reserved) = self.state(account, stored);
        let fits = |most: Option<u64>, spent: u64, reserved: u64, want: u64| {
            let sum = spent.saturating_add(reserved).saturating_add(want);
            want == 0 || most.is_none_or(|most| sum <= most)
        };
        let room = fits(most.cost, spent.cost, reserved.cost, want.cost)
            && fits(most.tokens, spent.tokens, reserved.tokens, want.tokens);
        if room {
            Ok(())
        } else {
            Err(Over { spent, reserved })
        }
    }

    /// Sets so much aside.
    pub fn reserve(&mut self, account: &Account, want: Sum) {
        let entry = self.accounts.entry(account.clone()).or_default();
        entry.reserved = plus(entry.reserved, want);
        entry.holds += 1;
    }

    /// An attempt of this action that so much was set aside for came to this.
    pub fn settle(&mut self, action: Uuid, account: &Account, reserved: Sum, came_to: Sum) {
        let Some(entry) = self.accounts.get_mut(account) else {
            debug_assert!(false, "nothing was set aside in {account:?}");
            return;
        };
        entry.reserved = minus(entry.reserved, reserved);
        entry.holds = entry.holds.saturating_sub(1);
        entry.fresh = plus(entry.fresh, came_to);
        if came_to != Sum::default() {
            let spent = self.spent.entry(action).or_default();
            let sum = spent.entry(account.clone()).or_default();
            *sum = plus(*sum, came_to);
        }
        self.clear(account);
    }

    /// What is spent and what is set aside, of an account in which so much is `stored`. While something is on its way into the store,
    /// it may be counted twice for a moment: less is left then, never more.
    #[must_use]
    pub fn state(&self, account: &Account, stored: Sum) -> (Sum, Sum) {
        let entry = self.accounts.get(account).copied().unwrap_or_default();
        let spent = plus(plus(stored, entry.fresh), entry.leaving);
        (spent, entry.reserved)
    }

    /// Accounts that something happens to.
    #[must_use]
    pub fn open(&self) -> usize {
        self.accounts.len()
    }

    /// Accounts of a budget in this time that something happens to.
    pub fn of<'a>(&'a self, budget: &'a str, since_ms: u64) -> impl Iterator<Item = &'a str> {
        self.accounts
            .keys()
            .filter(move |account| account.budget == budget && account.since_ms == since_ms)
            .map(|account| account.of.as_str())
    }

    /// What an action spent, to be added to what is stored with its end and with no other: if that is not stored, the action counts as
    /// interrupted. Who takes it says what became of it.
    #[must_use]
    pub fn leave(&mut self, action: Uuid) -> Vec<(Account, Sum)> {
        let spent: Vec<_> = self.spent.remove(&action).into_iter().flatten().collect();
        for (account, sum) in &spent {
            if let Some(entry) = self.accounts.get_mut(account) {
                entry.fresh = minus(entry.fresh, *sum);
                entry.leaving = plus(entry.leaving, *sum);
            }
        }
        spent
    }

    /// What left is in the store, or is not, and counts here as long as pawd lives.
    pub fn left(&mut self, sums: &[(Account, Sum)], stored: bool) {
        for (account, sum) in sums {
            if let Some(entry) = self.accounts.get_mut(account) {
                entry.leaving = minus(entry.leaving, *sum);
                if !stored {
                    entry.fresh = plus(entry.fresh, *sum);
                }
            }
            self.clear(account);
        }
    }

    /// Forgets what the store knows as well.
    fn clear(&mut self, account: &Account) {
        let nothing = Sum::default();
        if self.accounts.get(account).is_some_and(|entry| {
            entry.holds == 0 && entry.fresh == nothing && entry.leaving == nothing
        }) {
            self.accounts.remove(account);
        }
    }
}

const fn minus(one: Sum, other: Sum) -> Sum {
    Sum {
        cost: one.cost.saturating_sub(other.cost),
        tokens: one.tokens.saturating_sub(other.tokens),
    }
}

const fn plus(one: Sum, other: Sum) -> Sum {
    Sum {
        cost: one.cost.saturating_add(other.cost),
        tokens: one.tokens.saturating_add(other.tokens),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account(of: &str) -> Account {
        Account {
            budget: "b".into(),
            since_ms: 0,
            of: of.into(),
        }
    }

    const ACTION: Uuid = Uuid::nil();

    const fn sum(cost: u64, tokens: u64) -> Sum {
        Sum { cost, tokens }
    }

    const fn most(cost: u64) -> Most {
        Most {
            cost: Some(cost),
            tokens: None,
        }
    }

    #[test]
    fn what_is_set_aside_for_one_is_not_there_for_another() {
        let (mut ledger, account) = (Ledger::default(), account(""));
        let stored = sum(50, 0);
        ledger
            .room(&account, most(100), sum(50, 0), stored)
            .unwrap();
        ledger.reserve(&account, sum(50, 0));
        let over = Over {
            spent: stored,
            reserved: sum(50, 0),
        };
        assert_eq!(
            ledger.room(&account, most(100), sum(1, 0), stored),
            Err(over)
        );
        ledger.settle(ACTION, &account, sum(50, 0), sum(10, 3));
        assert_eq!(ledger.state(&account, stored), (sum(60, 3), sum(0, 0)));
        ledger
            .room(&account, most(100), sum(40, 0), stored)
            .unwrap();
    }

    #[test]
    fn what_costs_nothing_finds_room_in_a_budget_that_is_spent() {
        let ledger = Ledger::default();
        let spent = sum(100, 100);
        ledger
            .room(&account(""), most(0), sum(0, 7), spent)
            .unwrap();
        let tokens = Most {
            cost: None,
            tokens: Some(106),
        };
        assert!(ledger.room(&account(""), tokens, sum(0, 7), spent).is_err());
    }

    #[test]
    fn what_came_to_nothing_is_no_change() {
        let (mut ledger, account) = (Ledger::default(), account(""));
        ledger.reserve(&account, sum(5, 5));
        ledger.settle(ACTION, &account, sum(5, 5), sum(0, 0));
        assert!(ledger.leave(ACTION).is_empty() && ledger.accounts.is_empty());
    }

    #[test]
    fn what_an_action_spent_leaves_with_it_and_with_no_other() {
        let (mut ledger, account) = (Ledger::default(), account(""));
        let other = Uuid::max();
        for action in [ACTION, other] {
            ledger.reserve(&account, sum(5, 5));
            ledger.settle(action, &account, sum(5, 5), sum(4, 4));
        }
        let first = ledger.leave(ACTION);
        assert_eq!(first, [(account.clone(), sum(4, 4))]);
        assert!(ledger.leave(ACTION).is_empty(), "it is on its way already");
        ledger.left(&first, true);
        let stored = sum(4, 4);
        assert_eq!(ledger.state(&account, stored).0, sum(8, 8));
        let second = ledger.leave(other);
        assert_eq!(second, [(account.clone(), sum(4, 4))]);
        ledger.left(&second, false);
        assert_eq!(
            ledger.state(&account, stored).0,
            sum(8, 8),
            "it is spent, whether it could be stored or not"
        );
    }

    proptest! {
        /// As long as no attempt comes to more than was set aside for it, no account comes to more than it may, whatever of it is stored.
        #[test]
        fn no_account_comes_to_more_than_it_may(
            bound in 0_u64..200,
            steps in prop::collection::vec((0_u64..60, 0_u64..=100, any::<bool>()), 1..64),
        ) {
            let (mut ledger, account) = (Ledger::default(), account("x"));
            let (mut stored, mut open, mut spent) = (Sum::default(), Vec::new(), 0);
            for (want, share, settle) in steps {
                if settle && let Some(held) = open.pop() {
                    let held: u64 = held;
                    spent += held * share / 100;
                    ledger.settle(ACTION, &account, sum(held, 0), sum(held * share / 100, 0));
                } else if ledger.room(&account, most(bound), sum(want, 0), stored).is_ok() {
                    ledger.reserve(&account, sum(want, 0));
                    open.push(want);
                }
                if share % 2 == 0 {
                    let leaving = ledger.leave(ACTION);
                    let kept = share % 4 == 0;
                    if let Some((_, sum)) = leaving.first().filter(|_| kept) {
                        stored = plus(stored, *sum);
                    }
                    ledger.left(&leaving, kept);
                }
                let state = ledger.state(&account, stored);
                prop_assert_eq!(state, (sum(spent, 0), sum(open.iter().sum(), 0)));
                prop_assert!(state.0.cost + state.1.cost <= bound);
            }
        }
    }
}
