//! A position in the cube.

use std::fmt;
use std::str::FromStr;

/// How many bits name a vertex: the dimension `d` of the cube, 1 to 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dimension(u8);

impl Dimension {
    /// The largest cube: 4,096 vertices. A vertex index then fits in the sixteen bits that the disk and wire formats give it.
    pub const MAX: u8 = 12;

    /// Checks a dimension.
    ///
    /// # Errors
    /// [`VertexError::Dimension`] unless it is 1 to [`Self::MAX`].
    pub fn new(bits: u8) -> Result<Self, VertexError> {
        if (1..=Self::MAX).contains(&bits) {
            Ok(Self(bits))
        } else {
            Err(VertexError::Dimension { bits })
        }
    }

    /// The number of bits.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// How many vertices the cube has: 2^d.
    pub fn vertex_count(self) -> u16 {
        1 << self.0
    }

    /// Every vertex in ascending order.
    pub fn vertices(self) -> impl Iterator<Item = Vertex> {
        (0..self.vertex_count()).map(move |index| Vertex {
            index,
            dimension: self,
        })
    }
}

/// A vertex of the cube, written as `d` bits: `100`. It is the unit of ownership and the id of a shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vertex {
    /// Less than `2^d`.
    index: u16,
    dimension: Dimension,
}

impl Vertex {
    /// The vertex with this index in a cube of this dimension.
    ///
    /// # Errors
    /// [`VertexError::Index`] when the index is `2^d` or more.
    pub fn new(index: u16, dimension: Dimension) -> Result<Self, VertexError> {
        if index < dimension.vertex_count() {
            Ok(Self { index, dimension })
        } else {
            Err(VertexError::Index { index, dimension })
        }
    }

    /// The bits as a number.
    pub fn index(self) -> u16 {
        self.index
    }

    /// The cube that this vertex belongs to.
    pub fn dimension(self) -> Dimension {
        self.dimension
    }

    /// The vertex at the other end of the edge that changes bit `bit` (0 is the lowest); `bit` is taken modulo the dimension.
    #[must_use]
    pub fn flip(self, bit: u8) -> Self {
        Self {
            index: self.index ^ (1 << (bit % self.dimension.bits())),
            dimension: self.dimension,
        }
    }
}

impl fmt::Display for Vertex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:0width$b}",
            self.index,
            width = usize::from(self.dimension.bits())
        )
    }
}

impl fmt::Debug for Vertex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Vertex {
    type Err = VertexError;

    /// Reads `100`: as many bits as the cube has dimensions.
    fn from_str(text: &str) -> Result<Self, VertexError> {
        let bad = || VertexError::Text {
            text: text.chars().take(32).collect(),
        };
        if !text.bytes().all(|byte| matches!(byte, b'0' | b'1')) {
            return Err(bad());
        }
        let dimension = u8::try_from(text.len())
            .map_err(|_| bad())
            .and_then(Dimension::new)
            .map_err(|_| bad())?;
        let index = u16::from_str_radix(text, 2).map_err(|_| bad())?;
        Self::new(index, dimension)
    }
}

/// Why something is not a vertex.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VertexError {
    /// The cube would be too small or too large.
    #[error("dimension {bits} is not within 1..={max}", max = Dimension::MAX)]
    Dimension {
        /// What was asked for.
        bits: u8,
    },
    /// The cube has no such vertex.
    #[error("vertex {index} is not in a cube of dimension {bits}", bits = dimension.bits())]
    Index {
        /// What was asked for.
        index: u16,
        /// The cube.
        dimension: Dimension,
    },
    /// The text is not 1 to 12 binary digits.
    #[error("{text:?} is not a vertex: 1 to 12 binary digits, such as 100")]
    Text {
        /// The beginning of the text.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vertex_is_written_as_its_bits() {
        let cube = Dimension::new(3).unwrap();
        assert_eq!(Vertex::new(4, cube).unwrap().to_string(), "100");
        assert_eq!(
            "011".parse::<Vertex>().unwrap(),
            Vertex::new(3, cube).unwrap()
        );
    }

    #[test]
    fn vertex_outside_the_cube_is_refused() {
        let cube = Dimension::new(3).unwrap();
        assert!(matches!(
            Vertex::new(8, cube),
            Err(VertexError::Index { index: 8, .. })
        ));
        assert!("".parse::<Vertex>().is_err());
        assert!("012".parse::<Vertex>().is_err());
        assert!("0000000000000".parse::<Vertex>().is_err());
    }
}
