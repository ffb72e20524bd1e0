//! For tests: snapshots of small indexes in memory, with as many segments and deletes as wanted.

use std::sync::Arc;

use serde_json::Value;
use tantivy::indexer::NoMergePolicy;
use tantivy::schema::{STORED, Schema};
use tantivy::{Index, IndexWriter, Term};

use crate::document::Draft;
use crate::mapping::Mapping;
use crate::mapping::schema::{self, SystemFields, SystemValues};
use crate::position::{Generation, SeqNo};
use crate::snapshot::{SOURCE, Snapshot, SnapshotParts};

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
    let schema = with_source(&schema::build(&mapping));
    let tokenizers = schema::tokenizers();
    let mut index = Index::create_in_ram(schema.clone());
    index.set_tokenizers(tokenizers.clone());
    let mut writer: IndexWriter = index.writer_with_num_threads(1, 20_000_000).unwrap();
    writer.set_merge_policy(Box::new(NoMergePolicy));
    let source_field = schema.get_field(SOURCE).unwrap();
    let mut seq_no = 0;
    for documents in parsed {
        for (document, source) in documents {
            let system = SystemValues { seq_no, term: 1, version: seq_no + 1, lsn: 0 };
            let mut document = document.into_tantivy(&schema, system);
            document.add_bytes(source_field, source.as_bytes());
            writer.add_document(document).unwrap();
            seq_no += 1;
        }
        writer.commit().unwrap();
    }
    for id in deleted {
        writer.delete_term(Term::from_field_text(SystemFields::FIXED.id, id));
    }
    writer.commit().unwrap();
    let reader = index.reader().unwrap();
    let mut readers = reader.searcher().segment_readers().to_vec();
    readers.sort_by_key(|reader| reader.fast_fields().u64("_seq_no").unwrap().min_value());
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

fn with_source(schema: &Schema) -> Schema {
    let mut builder = Schema::builder();
    for (_, entry) in schema.fields() {
        builder.add_field(entry.clone());
    }
    builder.add_bytes_field(SOURCE, STORED);
    builder.build()
}
