//! Recordings that were changed in one place.
