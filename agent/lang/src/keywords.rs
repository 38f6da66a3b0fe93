//! Words that have a meaning of their own where a variable could stand.

pub const KEYWORDS: &[&str] = &[
    "MATCH",
    "WHERE",
    "RETURN",
    "RETURNING",
    "ORDER",
    "BY",
    "LIMIT",
    "OFFSET",
    "SPAWN",
    "SET",
    "KILL",
    "LINK",
    "UNLINK",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "AS",
    "AND",
    "OR",
    "NOT",
    "IN",
    "IS",
    "NULL",
    "TRUE",
    "FALSE",
    "EXISTS",
    "IF",
    "CASCADE",
    "NO",
    "DISTINCT",
    "ASC",
    "DESC",
    "CONTAINS",
    "STARTS",
    "ENDS",
    "WITH",
    "COUNT",
];
pub const STATEMENTS: &[&str] = &["MATCH", "SPAWN", "SET", "KILL", "LINK", "UNLINK", "BEGIN", "COMMIT", "ROLLBACK"];

pub fn is_keyword(word: &str) -> bool {
    KEYWORDS.iter().any(|k| k.eq_ignore_ascii_case(word))
}
