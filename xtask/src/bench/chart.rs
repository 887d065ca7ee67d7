//! A chart: a horizontal bar for each path, with its name and its figure beside it, from zero on one linear scale.

use anyhow::{Result, anyhow};
use plotters::prelude::{
    Color, DrawingAreaErrorKind, DrawingBackend, IntoDrawingArea, RGBColor, Rectangle, SVGBackend, TextStyle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::Bars;
use super::table::grouped;

/// Pixels: the whole width, the left part for names, and the right part for the figure of the longest bar.
const WIDTH: i32 = 900;
const NAMES: i32 = 230;
const FIGURES: i32 = 110;
/// The head; from one bar to the next; a bar; between a bar and its words.
const HEAD: i32 = 30;
const STEP: i32 = 28;
const THICKNESS: i32 = 20;
const GAP: i32 = 8;

const FONT: (&str, i32) = ("sans-serif", 14);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Ours are told from the others by their colour.
const OURS: RGBColor = RGBColor(0x1b, 0x6e, 0xc2);
const OTHERS: RGBColor = RGBColor(0x9a, 0xa3, 0xad);

/// The chart as an element that can stand in a page.
pub(crate) fn svg(bars: &Bars) -> Result<String> {
    let mut text = String::new();
    let height = HEAD + STEP * i32::try_from(bars.bars.len())?;
    let backend = SVGBackend::with_string(&mut text, (WIDTH.unsigned_abs(), height.unsigned_abs()));
    draw(bars, backend).map_err(|error| anyhow!("draw {}: {error}", bars.title))?;
    Ok(text)
}

fn draw<B: DrawingBackend>(bars: &Bars, backend: B) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let area = backend.into_drawing_area();
    let write = |text: &str, x: i32, y: i32, side: HPos| {
        area.draw_text(text, &TextStyle::from(FONT).color(&INK).pos(Pos::new(side, VPos::Center)), (x, y))
    };
    write(&bars.title, NAMES, HEAD / 2, HPos::Left)?;
    let mut top = HEAD;
    for bar in &bars.bars {
        let (middle, end) = (top + THICKNESS / 2, NAMES + length(bar.value, bars));
        write(&bar.label, NAMES - GAP, middle, HPos::Right)?;
        let colour = if bar.is_ours { OURS } else { OTHERS };
        area.draw(&Rectangle::new([(NAMES, top), (end, top + THICKNESS)], colour.filled()))?;
        write(&grouped(bar.value), end + GAP, middle, HPos::Left)?;
        top += STEP;
    }
    area.present()
}

/// Pixels for a figure; the greatest takes all there are.
#[expect(clippy::cast_possible_truncation, reason = "at most the width of the chart")]
fn length(value: f64, bars: &Bars) -> i32 {
    let greatest = bars.bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    (value.max(0.0) / greatest * f64::from(WIDTH - NAMES - FIGURES)).round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Bar;

    fn bars() -> Bars {
        let bar = |label: &str, value, is_ours| Bar { label: label.to_owned(), value, is_ours };
        let bars = vec![bar("plain <TCP>", 30_000.0, false), bar("direct", 60_000.0, true), bar("nothing", 0.0, true)];
        Bars { title: "instructions".to_owned(), bars }
    }

    #[test]
    fn lengths_are_as_the_figures() {
        let bars = bars();
        let lengths: Vec<_> = bars.bars.iter().map(|bar| length(bar.value, &bars)).collect();
        assert_eq!(lengths, [280, 560, 0]);
    }

    #[test]
    fn every_bar_has_its_name_and_figure() {
        let svg = svg(&bars()).unwrap();
        for text in ["instructions", "direct", "30,000", "60,000", "plain &lt;TCP&gt;"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        assert!(!svg.contains("<TCP>"), "{svg}");
        assert_eq!(svg.matches("#1B6EC2").count(), 2, "{svg}");
    }
}
