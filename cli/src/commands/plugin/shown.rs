//! Sizes and times as people read them.

use std::time::Duration;

/// `840 bytes`, `112.3 KiB`, `1.1 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        let tenths = count.saturating_mul(10) / unit;
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    };
    match count {
        0..1024 => format!("{count} bytes"),
        1024..1_048_576 => scaled(1024, "KiB"),
        _ => scaled(1_048_576, "MiB"),
    }
}

/// `85 µs`, `1.2 ms`, `3.4 s`.
pub(super) fn time(duration: Duration) -> String {
    let micros = duration.as_micros();
    let scaled = |unit: u128, name: &str| {
        let tenths = micros.saturating_mul(10) / unit;
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    };
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..1_000_000 => scaled(1000, "ms"),
        _ => scaled(1_000_000, "s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(840), "840 bytes");
        assert_eq!(bytes(114_995), "112.2 KiB");
        assert_eq!(bytes(1_153_434), "1.1 MiB");
        assert_eq!(time(Duration::from_micros(85)), "85 µs");
        assert_eq!(time(Duration::from_micros(1250)), "1.2 ms");
        assert_eq!(time(Duration::from_millis(3456)), "3.4 s");
    }
}
