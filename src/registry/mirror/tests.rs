//! The mirror's tests.
