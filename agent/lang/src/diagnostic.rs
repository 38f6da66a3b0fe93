//! What is wrong with a text: where, why and what to write instead.

use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};
use std::ops::Range;

pub type Span = Range<usize>;

/// More than anybody reads; and each one that is shown goes through the whole text.
pub const MAX_DIAGNOSTICS: usize = 20;
/// A longer word is no slip of another, and comparing two takes the product of their lengths.
const MAX_SLIP: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Byte range in the source.
    pub span: Span,
    pub message: String,
    /// Said at the caret.
    pub label: String,
    /// What may be written instead of the span.
    pub suggestion: Option<String>,
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Diagnostic { span, message: message.into(), label: "here".into(), suggestion: None, help: None }
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn suggest(mut self, instead: Option<impl Into<String>>) -> Self {
        self.suggestion = instead.map(Into::into);
        self
    }

    /// Line and column, both from 1, of where it starts.
    pub fn position(&self, source: &str) -> (usize, usize) {
        let before = &source[..self.span.start.min(source.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

/// Plain or coloured text with the source lines, a caret and the suggestion. `name` stands for the file.
pub fn render(name: &str, source: &str, diagnostics: &[Diagnostic], colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mut out = Vec::new();
    for d in diagnostics {
        let end = d.span.end.clamp(d.span.start, source.len());
        let span = d.span.start.min(source.len())..end;
        let snippet = Snippet::source(source)
            .path(name)
            .annotation(AnnotationKind::Primary.span(span.clone()).label(d.label.as_str()));
        let mut groups = vec![Group::with_title(Level::ERROR.primary_title(d.message.as_str())).element(snippet)];
        if let Some(s) = &d.suggestion {
            let patch = Snippet::source(source).path(name).patch(Patch::new(span, s.as_str()));
            groups.push(Group::with_title(Level::HELP.secondary_title("did you mean")).element(patch));
        }
        if let Some(h) = &d.help {
            groups.push(Group::with_title(Level::HELP.secondary_title(h.as_str())));
        }
        out.push(renderer.render(&groups).to_string());
    }
    out.join("\n\n")
}

/// The candidate nearest to `word`, if it is near enough to be a slip.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let length = word.chars().count();
    if length > MAX_SLIP {
        return None;
    }
    // A word of which every letter is another one is no slip.
    let limit = (1 + length / 4).min(length.saturating_sub(1));
    candidates
        .into_iter()
        .filter(|c| c.chars().count().abs_diff(length) <= limit)
        .map(|c| (distance(&word.to_lowercase(), &c.to_lowercase()), c))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, c)| c.to_owned())
}

/// Edits (insert, delete, replace, swap neighbours) between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
