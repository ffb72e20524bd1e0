//! Documents: JSON in, validated field values out.
