//! Tables as kubectl prints them.

use comfy_table::{ContentArrangement, Table, presets::NOTHING};

pub fn render(header: &[String], rows: &[Vec<String>]) -> String {
    let mut t = Table::new();
    t.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for r in rows {
        t.add_row(r);
    }
    for c in t.column_iter_mut() {
        c.set_padding((0, 3));
    }
    t.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
