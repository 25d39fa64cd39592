//! When a job is due, and what is to be done about it.
//!
//! Time is an argument, in milliseconds since 1970. What a crontab means is cronexpr's, and what a local time is when a clock is put
//! forward or back is jiff's, by the host's time zones.

use cronexpr::Crontab;

/// How late a run may begin and still be the one that was due.
pub const GRACE_MS: u64 = 60_000;

/// Times that are counted of what was missed; more are this many.
pub const MOST_COUNTED: u64 = 10_000;

/// A clock that is set back by less does not have a job run twice, or at another time: it waits until the clock has come to where it was.
const DAY_MS: u64 = 24 * 3_600_000;

/// It says no time.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error(
        "a schedule has five fields (minute, hour, day, month, day of the week) and this has {0}"
    )]
    Fields(usize),
    /// A field or the time zone is not understood.
    #[error("{0}")]
    Unreadable(String),
    /// There is no such time.
    #[error("that is never")]
    Never,
}

/// A schedule in a time zone.
#[derive(Debug, Clone)]
pub struct Schedule(Crontab);

impl Schedule {
    /// Reads the five fields of a crontab, and the name of a time zone.
    ///
    /// # Errors
    /// When they are not understood.
    pub fn read(cron: &str, tz: &str) -> Result<Self, ScheduleError> {
        let fields = cron.split_whitespace().count();
        if fields != 5 {
            return Err(ScheduleError::Fields(fields));
        }
        if tz.is_empty() || tz.contains(char::is_whitespace) {
            return Err(ScheduleError::Unreadable(
                "the time zone has no name".into(),
            ));
        }
        cronexpr::parse_crontab(&format!("{cron} {tz}"))
            .map(Self)
            .map_err(|error| ScheduleError::Unreadable(error.to_string()))
    }

    /// The first time after this one; none if it never comes.
    #[must_use]
    pub fn after(&self, ms: u64) -> Option<u64> {
        let from = cronexpr::MakeTimestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
        let next = self.0.find_next(from).ok()?;
        u64::try_from(next.timestamp().as_millisecond()).ok()
    }
}

/// Times at which a job was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The first of them.
    pub at_ms: u64,
    /// How many.
    pub times: u64,
}

/// What is to be done about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What was missed and is not made up for.
    pub skip: Option<Due>,
    /// What one run is begun for.
    pub run: Option<Due>,
    /// When it is due again.
    pub next_ms: Option<u64>,
}

/// What is to be done at this time about a job that is due at `due_ms` or was. What is later than [`GRACE_MS`] was missed: one run
/// makes up for all of it, or none.
#[must_use]
pub fn plan(schedule: &Schedule, due_ms: u64, now_ms: u64, catch_up: bool) -> Plan {
    let (mut missed, mut on_time) = (None::<Due>, None::<Due>);
    let mut at = Some(due_ms).filter(|due_ms| *due_ms <= now_ms);
    while let Some(at_ms) = at {
        let late = now_ms - at_ms > GRACE_MS;
        let which = if late { &mut missed } else { &mut on_time };
        let due = which.get_or_insert(Due { at_ms, times: 0 });
        due.times += 1;
        // What is not counted any more is passed over; what is on time is not.
        let from = if late && due.times >= MOST_COUNTED {
            now_ms.saturating_sub(GRACE_MS).saturating_sub(1)
        } else {
            at_ms
        };
        at = schedule.after(from).filter(|at_ms| *at_ms <= now_ms);
    }
    let (skip, run) = match (missed, on_time) {
        (Some(missed), on_time) if catch_up => {
            let times = missed.times + on_time.map_or(0, |due| due.times);
            (None, Some(Due { times, ..missed }))
        }
        both => both,
    };
    Plan {
        skip,
        run,
        next_ms: schedule.after(now_ms),
    }
}

/// When a job is due that was to be due at `next_ms`, if that was found by a clock that was ahead by more than a day and has been set right
/// since: it would not run until then.
#[must_use]
pub fn anew(schedule: &Schedule, next_ms: u64, now_ms: u64) -> Option<u64> {
    if next_ms.saturating_sub(now_ms) <= DAY_MS {
        return None;
    }
    let before_it = schedule.after(now_ms.saturating_add(DAY_MS))? < next_ms;
    before_it.then(|| schedule.after(now_ms)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    /// 2026-03-28 00:00 UTC, the day before Berlin's clocks are put forward.
    const SATURDAY: u64 = 1_774_656_000_000;

    fn due(at_ms: u64, times: u64) -> Option<Due> {
        Some(Due { at_ms, times })
    }

    #[test]
    fn what_is_no_schedule_is_told_as_such() {
        for (cron, tz, said) in [
            ("0 7 * *", "UTC", "five fields"),
            ("0 7 * * * UTC", "UTC", "five fields"),
            ("", "UTC", "five fields"),
            ("61 7 * * *", "UTC", "61"),
            ("0 7 * * FOO", "UTC", "FOO"),
            ("0 7 * * *", "Europe/Atlantis", "Atlantis"),
            ("0 7 * * *", "", "no name"),
            ("0 7 * * *", "UTC UTC", "no name"),
        ] {
            let error = Schedule::read(cron, tz).unwrap_err().to_string();
            assert!(error.contains(said), "{cron} {tz}: {error}");
        }
    }

    #[test]
    fn local_time_follows_the_clocks_of_its_place() {
        let seven = Schedule::read("0 7 * * *", "Europe/Berlin").unwrap();
        // Seven in the morning is six in winter and five in summer, by the clock of the world.
        let winter = seven.after(SATURDAY).unwrap();
        assert_eq!(winter, SATURDAY + 6 * HOUR);
        assert_eq!(seven.after(winter), Some(SATURDAY + 29 * HOUR));
    }

    #[test]
    fn time_that_is_left_out_when_clocks_go_forward_is_no_reason_to_run_twice() {
        let half_past_two = Schedule::read("30 2 * * *", "Europe/Berlin").unwrap();
        let mut at = SATURDAY;
        let mut days = Vec::new();
        for _ in 0..3 {
            at = half_past_two.after(at).unwrap();
            days.push((at - SATURDAY) / (24 * HOUR));
        }
        assert!(days.windows(2).all(|two| two[0] < two[1]), "{days:?}");
    }

    #[test]
    fn schedule_that_never_comes_has_no_next_time() {
        let never = Schedule::read("0 0 30 2 *", "UTC").unwrap();
        assert_eq!(never.after(SATURDAY), None);
    }

    #[test]
    fn what_is_due_runs_what_was_missed_does_not_unless_it_is_made_up_for() {
        let hourly = Schedule::read("0 * * * *", "UTC").unwrap();
        let at = |ms| SATURDAY + ms;
        let next = |ms| Some(at(ms));
        for (now, catch_up, skip, run, next_ms) in [
            // Not due yet, just due, a little late.
            (at(0) - 1, false, None, None, next(0)),
            (at(0), false, None, due(at(0), 1), next(HOUR)),
            (at(GRACE_MS), true, None, due(at(0), 1), next(HOUR)),
            // Too late.
            (at(GRACE_MS + 1), false, due(at(0), 1), None, next(HOUR)),
            (at(GRACE_MS + 1), true, None, due(at(0), 1), next(HOUR)),
            // Two were missed, the third is on time.
            (
                at(2 * HOUR),
                false,
                due(at(0), 2),
                due(at(2 * HOUR), 1),
                next(3 * HOUR),
            ),
            (at(2 * HOUR), true, None, due(at(0), 3), next(3 * HOUR)),
        ] {
            let expected = Plan { skip, run, next_ms };
            assert_eq!(
                plan(&hourly, SATURDAY, now, catch_up),
                expected,
                "{now} {catch_up}"
            );
        }
    }

    #[test]
    fn years_that_were_missed_are_counted_up_to_a_bound() {
        let minutely = Schedule::read("* * * * *", "UTC").unwrap();
        let now = SATURDAY + 3 * 365 * 24 * HOUR;
        let plan = plan(&minutely, SATURDAY, now, false);
        assert_eq!(plan.skip, due(SATURDAY, MOST_COUNTED));
        assert_eq!(plan.run.map(|due| due.at_ms), Some(now - MINUTE));
        assert_eq!(plan.next_ms, Some(now + MINUTE));
    }

    #[test]
    fn job_of_a_clock_that_was_ahead_is_due_again_when_the_clock_is_right() {
        let daily = Schedule::read("0 7 * * *", "UTC").unwrap();
        let monthly = Schedule::read("0 7 1 * *", "UTC").unwrap();
        let (day, now) = (24 * 60 * MINUTE, 1_800_000_000_000);
        let next = daily.after(now).unwrap();
        // As it is, also where its day is far.
        assert_eq!(anew(&daily, next, now), None);
        assert_eq!(anew(&monthly, monthly.after(now).unwrap(), now), None);
        // Set back by an hour behind a run: that run is not made again.
        assert_eq!(anew(&daily, next, next - 60 * MINUTE), None);
        assert_eq!(anew(&daily, next + day, next - 60 * MINUTE), None);
        // Ahead by a year for a while.
        let year = 365 * day;
        assert_eq!(
            anew(&daily, daily.after(now + year).unwrap(), now),
            Some(next)
        );
        let first = monthly.after(now);
        assert_eq!(
            anew(&monthly, monthly.after(now + year).unwrap(), now),
            first
        );
    }
}
