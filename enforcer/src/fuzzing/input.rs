//! Parts of an input. What is not there is nothing, so that no input is wrong.

/// What is left of it.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    /// The next octet; `None` at the end.
    pub(crate) fn octet(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// So many octets, or those that are left.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A number, whose octets may be missing.
    pub(crate) fn number(&mut self) -> u32 {
        self.take(4).iter().fold(0, |number, &octet| number << 8 | u32::from(octet))
    }

    /// A part with its length, two octets, in front; `None` at the end.
    pub(crate) fn part(&mut self) -> Option<&'a [u8]> {
        let length = self.octet().map(|high| usize::from(high) << 8)?;
        let length = length | usize::from(self.octet().unwrap_or_default());
        Some(self.take(length))
    }

    /// All parts that are left.
    pub(crate) fn parts(mut self) -> Vec<&'a [u8]> {
        std::iter::from_fn(|| self.part()).collect()
    }
}
