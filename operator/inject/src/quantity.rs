//! Amounts as Kubernetes writes them: `500m`, `0.5`, `256Mi`, `1e3`.

/// The amount; `None` if it is none. Without a sign: nothing here can be negative.
pub fn parse(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024_f64,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        _ => 10_f64.powi(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let amount = number * factor;
    amount.is_finite().then_some(amount)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn amounts_are_read_as_kubernetes_does() {
        for (text, amount) in [
            ("0", 0.0),
            ("1", 1.0),
            ("0.5", 0.5),
            (".5", 0.5),
            ("1.", 1.0),
            ("500m", 0.5),
            ("1e3", 1000.0),
            ("1E3", 1000.0),
            ("1E", 1e18),
            ("1k", 1000.0),
            ("1Ki", 1024.0),
            ("0.5Gi", 536_870_912.0),
        ] {
            let found = parse(text).unwrap_or_else(|| panic!("{text} is no amount"));
            assert!((found - amount).abs() <= amount * 1e-12, "{text}: {found}");
        }
        assert_eq!(parse("0.5Gi"), parse("512Mi"));
    }

    #[test]
    fn what_is_no_amount_is_none() {
        for text in [
            "", " 1", "1 ", "-1", "+1", ".", "1.2.3", "Mi", "1mi", "1MB", "1K", "e3", "1e", "1ee3", "1e999", "0x10",
            "½", "1_000",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
