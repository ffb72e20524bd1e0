//! JSON laid out for people, with everything but its spaces as it was: a number keeps its digits.

/// Spaces of each level.
const WIDTH: usize = 2;

/// Lays out JSON, a value or a name a line, as `serde_json` does. What is not JSON stays what it is.
pub(super) fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() + json.len() / 2);
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(&byte) = json.get(at) {
        let end = match byte {
            b'"' => end_of_string(json, at),
            _ => at + 1,
        };
        let token = json.get(at..end).unwrap_or_default();
        at = end;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'{' | b'[' => {
                at += json.iter().skip(at).take_while(|byte| byte.is_ascii_whitespace()).count();
                out.extend_from_slice(token);
                if let Some(b'}' | b']') = json.get(at) {
                    out.extend(json.get(at));
                    at += 1;
                } else {
                    depth += 1;
                    begin_line(depth, &mut out);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                begin_line(depth, &mut out);
                out.extend_from_slice(token);
            }
            b',' => {
                out.extend_from_slice(token);
                begin_line(depth, &mut out);
            }
            b':' => out.extend_from_slice(b": "),
            _ => out.extend_from_slice(token),
        }
    }
    out
}

/// Behind the quote that ends a string, which begins here.
pub(super) fn end_of_string(json: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

fn begin_line(depth: usize, out: &mut Vec<u8>) {
    out.push(b'\n');
    out.resize(out.len() + depth * WIDTH, b' ');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn it_is_laid_out_as_by_serde() {
        for value in [
            json!({}),
            json!([]),
            json!(7),
            json!("a \"b\" {[,:]} \\"),
            json!({"a": [], "b": {}, "c": [1, [2, {"d": null}]], "": "x\\", "é": true}),
        ] {
            let expected = serde_json::to_string_pretty(&value).unwrap();
            for json in [value.to_string(), expected.clone()] {
                assert_eq!(String::from_utf8(indent(json.as_bytes())).unwrap(), expected);
            }
        }
    }

    #[test]
    fn numbers_keep_their_digits() {
        let json = br#"{"a":[1.10, 12345678901234567890123,1E+2], "b": -0.0 }"#;
        let laid_out = String::from_utf8(indent(json)).unwrap();
        for number in ["    1.10,", "    12345678901234567890123,", "    1E+2\n", "\"b\": -0.0\n"] {
            assert!(laid_out.contains(number), "{laid_out}");
        }
        assert!(serde_json::from_str::<Value>(&laid_out).is_ok());
    }

    #[test]
    fn anything_ends() {
        for text in ["", "\"", "\"\\", "[", "]]]", "{\"a", "[1,", "\u{7f}\\"] {
            indent(text.as_bytes());
        }
    }
}
