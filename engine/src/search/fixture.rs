//! For tests: snapshots of small indexes in memory, with as many segments and deletes as wanted.

use std::sync::Arc;

use serde_json::Value;
use tantivy::{BitSet, Index, SegmentReader};

use crate::document::{Draft, SchemaFields};
use crate::mapping::Mapping;
use crate::mapping::schema::{self, SystemValues};
use crate::position::{Generation, SeqNo};
use crate::snapshot::{Snapshot, SnapshotParts};
use crate::store::segment::alive_set;
use crate::store::segment_writer::SegmentWriter;
use crate::store::source;

/// A snapshot of an index `name` whose segments hold the documents given, by id; then the ids in
/// `deleted` are deleted.
pub(crate) fn snapshot(
    name: &str,
    mapping: &Value,
    segments: &[Vec<(String, Value)>],
    deleted: &[String],
) -> Arc<Snapshot> {
    let mut draft = Draft::new(Arc::new(Mapping::from_json(mapping).unwrap()));
    let parsed: Vec<Vec<_>> = segments
        .iter()
        .map(|documents| {
            let parse = |(id, source): &(String, Value)| {
                let source = source.to_string();
                (draft.parse(id, source.as_bytes()).unwrap(), source)
            };
            documents.iter().map(parse).collect()
        })
        .collect();
    let mapping = Arc::clone(draft.mapping());
    let schema = schema::build(&mapping);
    let tokenizers = schema::tokenizers();
    let builder = Index::builder().schema(schema.clone()).tokenizers(tokenizers.clone());
    let index = builder.register_plugin(source::plugin()).create_in_ram().unwrap();
    let mut seq_no = 0;
    let mut readers = Vec::new();
    for documents in parsed {
        if documents.is_empty() {
            continue;
        }
        let segment = index.new_segment();
        let mut writer = SegmentWriter::new(segment.clone()).unwrap();
        let mut alive = BitSet::with_max_value_and_full(documents.len().try_into().unwrap());
        let mut fields = Arc::new(SchemaFields::new(&schema, &mapping));
        for (document, source) in documents {
            if deleted.iter().any(|id| id == document.id()) {
                alive.remove(writer.max_doc());
            }
            let system = SystemValues { seq_no, term: 1, version: seq_no + 1, lsn: 0 };
            let id = document.id().to_owned();
            let document = document.into_indexed(&schema, &mut fields, system);
            writer.add(&id, &document, source.as_bytes()).unwrap();
            seq_no += 1;
        }
        let segment = segment.with_max_doc(writer.max_doc());
        writer.finish().unwrap();
        let dead = alive.len() < alive.max_value() as usize;
        let alive = dead.then(|| alive_set(&alive).unwrap());
        readers.push(SegmentReader::open_with_custom_alive_set(&segment, alive).unwrap());
    }
    Arc::new(
        Snapshot::new(SnapshotParts {
            index_name: name.to_owned(),
            uuid: format!("uuid-of-{name}"),
            generation: Generation { term: 1, number: 1 },
            checkpoint: None,
            max_seq_no: Some(SeqNo(seq_no)),
            mapping,
            schema,
            tokenizers,
            row_count: 0,
            rows: Vec::new(),
            in_memory: Vec::new(),
            activity: Arc::default(),
            segments: readers.into_iter().map(Arc::new).collect(),
        })
        .unwrap(),
    )
}

/// One segment, ids from 1.
pub(crate) fn one_segment(mapping: &Value, documents: &[Value]) -> Arc<Snapshot> {
    let numbered = documents.iter().enumerate();
    let numbered = numbered.map(|(place, source)| ((place + 1).to_string(), source.clone()));
    snapshot("test", mapping, &[numbered.collect()], &[])
}
