//! In which time a budget holds. Pure.

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};

use crate::config::quotas::Period;

/// When the time began that this one is in, and when the next begins, in milliseconds since 1970. One that never begins anew began
/// at 0 and has no next.
#[must_use]
pub fn around(period: Period, now_ms: u64) -> (u64, Option<u64>) {
    let whole = (0, None);
    let at = i64::try_from(now_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let Some(today) = at.map(|at| at.to_zoned_datetime(TimeZone::UTC).date()) else {
        return whole;
    };
    let (first, span) = match period {
        Period::Day => (today, 1.day()),
        Period::Month => (today.first_of_month(), 1.month()),
        Period::Ever => return whole,
    };
    let next = first.checked_add(span).ok();
    (millis(first).unwrap_or(0), next.and_then(millis))
}

/// The first moment of a day, by UTC.
fn millis(day: Date) -> Option<u64> {
    let moment = day.to_zoned_datetime(TimeZone::UTC).ok()?.timestamp();
    u64::try_from(moment.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    #[test]
    fn day_and_month_are_those_of_the_calendar_by_utc() {
        for (period, now, began, next) in [
            (
                Period::Day,
                "2026-12-31T23:59:59.999Z",
                "2026-12-31T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
            (
                Period::Day,
                "2027-01-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
                "2027-01-02T00:00:00Z",
            ),
            (
                Period::Month,
                "2028-02-29T12:00:00Z",
                "2028-02-01T00:00:00Z",
                "2028-03-01T00:00:00Z",
            ),
            (
                Period::Month,
                "2026-12-01T00:00:00Z",
                "2026-12-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
        ] {
            assert_eq!(
                around(period, at(now)),
                (at(began), Some(at(next))),
                "{now}"
            );
        }
    }

    #[test]
    fn what_never_begins_anew_is_one_time() {
        assert_eq!(around(Period::Ever, at("2026-05-05T05:05:05Z")), (0, None));
    }
}
