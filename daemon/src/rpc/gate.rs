//! The one place that every call passes before any handler runs.
//!
//! It reads the table of `paw_api::methods` and nothing else: a method that is not in it does not exist, a caller below the
//! role that stands there is denied, and a parameter that is not named there is an error. So an identity cannot be claimed
//! by adding a member, and a handler cannot forget to ask who is calling.

use std::{borrow::Cow, cmp::Reverse, fmt, sync::Arc};

use futures_util::future::{BoxFuture, Shared};
use jsonrpsee::types::ErrorObjectOwned;
use paw_api::{
    error::{Error, ErrorKind},
    fault::Fault,
    methods::Method,
};
use paw_policy::Role;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Peer;

/// Comes to its end when the record of a denial is on the disk; with an error where there is none.
pub type Recorded = Shared<BoxFuture<'static, Result<(), Error>>>;

/// Told of every denial, so that it can be audited: who, and which method. It must return at once; nobody is told that they were denied
/// before what it gives has ended. The method is a name from the table, or `unknown`; never a text of the caller.
pub type OnDenied = Arc<dyn Fn(&Peer, &'static str) -> Recorded + Send + Sync>;

/// Asked before each call, and told of it by that: whether somebody may call a method now, or when. It must return at once.
pub type MayCall = Arc<dyn Fn(&Peer, &'static str) -> Result<(), Error> + Send + Sync>;

/// The table, and who hears of denials.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) table: &'static [Method],
    pub(super) on_denied: OnDenied,
}

/// Why a call is not made.
pub(super) enum Refused {
    /// It cannot be meant.
    Fault(ErrorObjectOwned),
    /// It is not for this caller, who is told so once that is on record.
    Denied(&'static str, Recorded, ErrorObjectOwned),
}

impl Gate {
    /// The method, if `peer` may call it with `params`.
    pub(super) fn admit(
        &self,
        peer: &Peer,
        name: &str,
        params: Option<&str>,
    ) -> Result<&'static Method, Refused> {
        let found = self
            .table
            .binary_search_by_key(&name, |method| method.name)
            .ok()
            .map(|index| &self.table[index]);
        // Who has no role learns nothing, not even which methods there are.
        let Some(role) = peer.role else {
            return Err(self.deny(peer, found, Role::User));
        };
        let Some(method) = found else {
            let fault = Fault::UnknownMethod { method: name };
            return Err(Refused::Fault(fault.into()));
        };
        if role < method.role {
            return Err(self.deny(peer, found, method.role));
        }
        if let Some(params) = params {
            check_params(method.params, params)
                .map_err(|why| Refused::Fault(Fault::BadParams { why: &why }.into()))?;
        }
        Ok(method)
    }

    fn deny(&self, peer: &Peer, method: Option<&'static Method>, needed: Role) -> Refused {
        let name = method.map_or("unknown", |method| method.name);
        let recorded = (self.on_denied)(peer, name);
        let message = match method {
            Some(method) => format!(
                "{peer} may not call {}: it needs the role {needed}",
                method.name
            ),
            None => format!("{peer} has no role here"),
        };
        let error = Error::new(ErrorKind::Denied, message, hint(needed));
        Refused::Denied(name, recorded, error.into())
    }
}

const fn hint(needed: Role) -> &'static str {
    match needed {
        Role::User => {
            "ask an administrator to add you to the group paw-user (or paw-approver, paw-admin), then log in again"
        }
        Role::Approver => {
            "ask an administrator to add you to the group paw-approver (or paw-admin), then log in again"
        }
        Role::Admin => {
            "ask an administrator to do this, or to add you to the group paw-admin, then log in again"
        }
    }
}

/// Whether `params` has only members of `allowed`, or no more positions than it has names.
fn check_params(allowed: &[&str], params: &str) -> Result<(), String> {
    match params.as_bytes() {
        b"[]" | b"{}" => Ok(()),
        [b'{' | b'[', ..] => serde_json::Deserializer::from_str(params)
            .deserialize_any(Members(allowed))
            .map_err(|error| {
                // serde_json adds the place within the parameters; the names say enough.
                let text = error.to_string();
                text.split(" at line ")
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            }),
        _ => Err("they must be an object or an array".into()),
    }
}

struct Members<'a>(&'a [&'a str]);

impl Members<'_> {
    fn listed(&self) -> String {
        if self.0.is_empty() {
            "it takes none".into()
        } else {
            format!("it takes {}", self.0.join(", "))
        }
    }

    /// The name that was probably meant: one that shares the longest beginning.
    fn nearest(&self, key: &str) -> Option<&str> {
        let shared = |name: &str| {
            name.bytes()
                .zip(key.bytes())
                .take_while(|(a, b)| a == b)
                .count()
        };
        self.0
            .iter()
            .copied()
            .filter(|name| shared(name) >= 3)
            .min_by_key(|name| Reverse(shared(name)))
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            if !self.0.contains(&key.as_ref()) {
                let key = &key[..key.floor_char_boundary(64)];
                let meant = self
                    .nearest(key)
                    .map(|name| format!(" (did you mean {name:?}?)"))
                    .unwrap_or_default();
                return Err(A::Error::custom(format!(
                    "unknown member {key:?}{meant}; {}",
                    self.listed()
                )));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut count = 0;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
            if count > self.0.len() {
                return Err(A::Error::custom(format!(
                    "too many positions; {}",
                    self.listed()
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(params: &str, expected: Result<(), &str>) {
        assert_eq!(
            check_params(&["text", "agent"], params),
            expected.map_err(str::to_owned),
            "{params}"
        );
    }

    #[test]
    fn only_the_members_of_the_table_pass() {
        check(r#"{"text":"a","agent":{"deep":[1]}}"#, Ok(()));
        check(r#"["a"]"#, Ok(()));
        check(r#"["a","b"]"#, Ok(()));
        check("[]", Ok(()));
        check(
            r#"{"text":"a","uid":0}"#,
            Err(r#"unknown member "uid"; it takes text, agent"#),
        );
        check(
            r#"{"\u0075id":0}"#,
            Err(r#"unknown member "uid"; it takes text, agent"#),
        );
        check(
            r#"{"texts":"a"}"#,
            Err(r#"unknown member "texts" (did you mean "text"?); it takes text, agent"#),
        );
        check("[1,2,3]", Err("too many positions; it takes text, agent"));
        check(r#""text""#, Err("they must be an object or an array"));
    }
}
