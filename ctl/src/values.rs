//! What values on the command line mean: times, sizes, CPUs.

use std::{str::FromStr, time::Duration};

use paw_api::egress::{BadRule, NetRule};
use paw_policy::Ceiling;

/// A time like `500ms`, `30s`, `1.5h`; a plain number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err("a time looks like 500ms, 30s, 5m, 2h or 1d".to_owned()),
    };
    let number = f64::from_str(number)
        .map_err(|_| "a time begins with a number: 500ms, 30s, 5m".to_owned())?;
    // A year is longer than anything waits, and keeps the sum with a clock from overflowing.
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(time) if time > Duration::ZERO && time <= Duration::from_secs(365 * 86_400) => Ok(time),
        _ => Err("a time is between 1ms and 365d".to_owned()),
    }
}

/// A moment as milliseconds since 1970: a time like `2h` that has passed since, or one like `2026-11-24T09:00:00Z`.
pub(crate) fn moment(text: &str) -> Result<u64, String> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let then = match duration(text) {
        Ok(ago) => now.saturating_sub(ago).as_millis(),
        Err(_) => {
            let read: Result<jiff::Timestamp, _> = text.parse();
            let millis = read.map(jiff::Timestamp::as_millisecond);
            let millis = millis.ok().and_then(|it| u128::try_from(it).ok());
            millis.ok_or(
                "a moment looks like 30m or 2d, which is so long ago, or like 2026-11-24T09:00:00Z",
            )?
        }
    };
    u64::try_from(then).map_err(|error| error.to_string())
}

/// What a sandbox may reach, or `none`, which is what it may without this.
pub(crate) fn net(text: &str) -> Result<Option<NetRule>, BadRule> {
    match text {
        "none" => Ok(None),
        rule => rule.parse().map(Some),
    }
}

/// How confidential what is sent may be at most.
pub(crate) fn ceiling(text: &str) -> Result<Ceiling, &'static str> {
    text.parse().map_err(|_| "it is public, private or secret")
}

/// A size like `256M`; the letters are powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err("a size looks like 4096, 256M or 1G".to_owned()),
    };
    let number = u64::from_str(number)
        .map_err(|_| "a size begins with a whole number: 256M, 1G".to_owned())?;
    number
        .checked_mul(1 << shift)
        .filter(|size| *size > 0)
        .ok_or_else(|| "a size is more than 0 and below 16 EiB".to_owned())
}

/// An amount of dollars like `20` or `0.5`, in millionths.
pub(crate) fn dollars(text: &str) -> Result<u64, String> {
    let fault = || "an amount looks like 20 or 0.50, with at most six decimals".to_owned();
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 6 {
        return Err(fault());
    }
    let part: u64 = format!("{part:0<6}").parse().map_err(|_| fault())?;
    let whole: u64 = whole.parse().map_err(|_| fault())?;
    whole
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(part))
        .ok_or_else(fault)
}

/// CPUs in thousandths.
pub(crate) fn milli(text: &str) -> Result<u32, String> {
    match f64::from_str(text) {
        Ok(cpus) if (0.001..=4096.0).contains(&cpus) => Ok((cpus * 1000.0).round() as u32),
        _ => Err("a number of CPUs looks like 0.5 or 2".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let check = |text, ms| {
            assert_eq!(
                duration(text).map(|time| time.as_millis()),
                Ok(ms),
                "{text}"
            )
        };
        check("500ms", 500);
        check("30", 30_000);
        check("30s", 30_000);
        check("1.5m", 90_000);
        check("2h", 7_200_000);
        for bad in ["", "s", "0", "-1s", "1y", "1e9d", "366d", "nan", "1 s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_are_read() {
        let check = |text, micros| assert_eq!(dollars(text), Ok(micros), "{text}");
        check("20", 20_000_000);
        check("0.5", 500_000);
        check("0.000001", 1);
        check("1.10", 1_100_000);
        for bad in [
            "",
            ".5",
            "1.",
            "-1",
            "+1",
            "1.0000001",
            "1e3",
            "99999999999999999",
        ] {
            assert!(dollars(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read() {
        let check = |text, bytes| assert_eq!(size(text), Ok(bytes), "{text}");
        check("4096", 4096);
        check("256M", 256 << 20);
        check("1GiB", 1 << 30);
        for bad in ["", "M", "0", "-1", "1X", "99999999999T", "1.5G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpus_are_read() {
        assert_eq!(milli("0.5"), Ok(500));
        assert_eq!(milli("2"), Ok(2000));
        for bad in ["0", "-1", "x", "inf", "nan"] {
            assert!(milli(bad).is_err(), "{bad}");
        }
    }
}
