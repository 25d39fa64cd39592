//! What was spent of budgets: one row for each budget, for each that it is split by, and for each time in which it holds.
//!
//! The table is made when the first row is written, and a store without it has none.

use redb::{ReadTransaction, ReadableTable as _, TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::error::Fault;

/// Budget, beginning of its time, and by what it is split, to cost and tokens.
const SPENT: TableDefinition<'_, (&str, u64, &str), (u64, u64)> = TableDefinition::new("spent");

/// Of what something was spent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Account {
    /// Which budget.
    pub budget: String,
    /// When the time began in which it holds, in milliseconds since 1970; 0 of one that never begins anew.
    pub since_ms: u64,
    /// Whose part of it, by what it is split; empty if it is not.
    pub of: String,
}

/// How much was spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// In millionths of the currency of the prices.
    pub cost: u64,
    /// Tokens of questions and answers.
    pub tokens: u64,
}

fn key(account: &Account) -> (&str, u64, &str) {
    (&account.budget, account.since_ms, &account.of)
}

pub(crate) fn add(txn: &WriteTransaction, account: &Account, sum: Sum) -> Result<(), Fault> {
    let mut table = txn.open_table(SPENT)?;
    let before = table.get(key(account))?.map(|row| row.value());
    let (cost, tokens) = before.unwrap_or_default();
    let after = (
        cost.saturating_add(sum.cost),
        tokens.saturating_add(sum.tokens),
    );
    table.insert(key(account), after)?;
    Ok(())
}

pub(crate) fn of(txn: &ReadTransaction, accounts: &[&Account]) -> Result<Vec<Sum>, Fault> {
    let table = match txn.open_table(SPENT) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(vec![Sum::default(); accounts.len()]),
        Err(error) => return Err(error.into()),
    };
    let sum = |account: &&Account| {
        let found = table.get(key(account))?.map(|row| row.value());
        let (cost, tokens) = found.unwrap_or_default();
        Ok(Sum { cost, tokens })
    };
    accounts.iter().map(sum).collect()
}

/// All of a budget in the time that began then, at most so many, by whose part it is.
pub(crate) fn in_time(
    txn: &ReadTransaction,
    budget: &str,
    since_ms: u64,
    most: usize,
) -> Result<Vec<(String, Sum)>, Fault> {
    let table = match txn.open_table(SPENT) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for entry in table.range((budget, since_ms, "")..)?.take(most) {
        let (key, row) = entry?;
        let (name, since, of) = key.value();
        if (name, since) != (budget, since_ms) {
            break;
        }
        let (cost, tokens) = row.value();
        found.push((of.to_owned(), Sum { cost, tokens }));
    }
    Ok(found)
}

/// Removes what was spent of a budget in times that began before this one.
pub(crate) fn forget(txn: &WriteTransaction, budget: &str, before_ms: u64) -> Result<(), Fault> {
    let mut table = txn.open_table(SPENT)?;
    table.retain_in((budget, 0, "")..(budget, before_ms, ""), |_, _| false)?;
    Ok(())
}

/// Removes what was spent of all accounts that are split by this part.
pub(crate) fn forget_part(txn: &WriteTransaction, part: &str) -> Result<(), Fault> {
    let mut table = txn.open_table(SPENT)?;
    table.retain(|(_, _, of), _| !of.split(',').any(|it| it == part))?;
    Ok(())
}
