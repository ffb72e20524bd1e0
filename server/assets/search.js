// The search page: results as you type, facets, highlighted hits, and the position in the
// database's log that they reflect. It speaks the public API only, and puts every value into the
// page as text, never as HTML.

const PAGE_SIZE = 20;
const MAX_FACETS = 5;
const FACET_BUCKETS = 8;
const MAX_FACET_VALUES = 400;
const POLL_MS = 400;
const ANSWER_TIMEOUT_MS = 30000;
const MAX_WINDOW = 10000;
// Private-use characters mark matches, so that no text of a document can pose as markup.
const MARK_BEGIN = "\ue000";
const MARK_END = "\ue001";

const element = (id) => document.getElementById(id);
const state = { index: "", text: "", sort: "", page: 0, filters: {}, fields: [], facets: [], shown: null };
// The number of the newest search, and of the newest that was answered: an older answer is dropped.
let newest = 0;
let answered = 0;

async function api(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const response = await fetch(path, {
    ...options,
    headers: { Accept: "application/json", ...options.headers },
    signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error?.reason ?? `status ${response.status}`);
  return { answer, lsn: response.headers.get("Egret-LSN"), cache: response.headers.get("Egret-Cache") };
}

// ---- what an index has ----

function leafFields(properties, prefix = "") {
  return Object.entries(properties ?? {}).flatMap(([name, field]) => {
    const path = prefix + name;
    if (field.properties) return leafFields(field.properties, `${path}.`);
    const keyword = Object.entries(field.fields ?? {}).find(([, sub]) => sub.type === "keyword");
    const column = field.type === "text" ? keyword && `${path}.${keyword[0]}` : path;
    return [{ path, type: field.type, column }];
  });
}

const isText = (field) => field.type === "text" || field.type === "keyword";
const isNumber = (field) => /^(long|integer|short|byte|unsigned_long|double|float|half_float|date)$/.test(field.type);
const isTitle = (field) => /(^|\.)(name|title|subject|headline)$/.test(field.path);

// Facets are the columns with few enough different values to choose from, the fullest first.
async function chooseFacets(index, fields) {
  const candidates = fields.filter((field) => field.column && (isText(field) || field.type === "boolean")).slice(0, 24);
  if (!candidates.length) return [];
  const aggs = {};
  candidates.forEach((field, number) => {
    aggs[`different${number}`] = { cardinality: { field: field.column } };
    aggs[`present${number}`] = { value_count: { field: field.column } };
  });
  const { answer } = await api(`/${encodeURIComponent(index)}/_search`, { size: 0, aggs });
  return candidates
    .map((field, number) => ({
      ...field,
      different: answer.aggregations[`different${number}`].value,
      present: answer.aggregations[`present${number}`].value,
    }))
    .filter((field) => field.different > 1 && field.different <= MAX_FACET_VALUES && field.present > 2 * field.different)
    .sort((a, b) => b.present - a.present || a.different - b.different)
    .slice(0, MAX_FACETS);
}

async function openIndex(index) {
  const { answer } = await api(`/${encodeURIComponent(index)}/_mapping`);
  const fields = leafFields(Object.values(answer)[0].mappings.properties);
  const facets = await chooseFacets(index, fields);
  // All at once: a search between these would ask one index for the fields of another.
  Object.assign(state, { index, fields, facets });
  const orders = state.fields
    .filter((field) => field.column && (isNumber(field) || isTitle(field)))
    .flatMap((field) => [[`${field.path} ↑`, `${field.column}:asc`], [`${field.path} ↓`, `${field.column}:desc`]]);
  const options = [["Best match", ""], ...orders].map(([text, value]) => new Option(text, value));
  element("sort").replaceChildren(...options);
  element("sort").value = options.some((option) => option.value === state.sort) ? state.sort : "";
  state.sort = element("sort").value;
}

// ---- the search ----

function textQuery(text, fields) {
  const boosted = fields.filter(isText).map((field) => (isTitle(field) ? `${field.path}^3` : field.path));
  if (!text.trim() || !boosted.length) return { match_all: {} };
  if (/["():*~^]|(^|\s)[-+]\S|\b(AND|OR|NOT)\b/.test(text)) {
    return { query_string: { query: text, fields: boosted, default_operator: "AND" } };
  }
  const words = text.trim().split(/\s+/);
  const last = words.pop();
  const whole = (word, boost) => ({ multi_match: { query: word, fields: boosted, boost } });
  return {
    bool: {
      must: [
        ...words.map((word) => whole(word, 1)),
        { bool: { should: [whole(last, 2), { multi_match: { query: last, fields: boosted, type: "bool_prefix" } }] } },
      ],
    },
  };
}

const facetFilter = (column, values) => ({ terms: { [column]: values } });

function searchBody() {
  const chosen = Object.entries(state.filters).filter(([, values]) => values.length);
  const body = {
    query: textQuery(state.text, state.fields),
    from: state.page * PAGE_SIZE,
    size: PAGE_SIZE,
    highlight: {
      pre_tags: [MARK_BEGIN],
      post_tags: [MARK_END],
      fragment_size: 180,
      number_of_fragments: 2,
      fields: Object.fromEntries(state.fields.filter(isText).map((field) => [field.path, {}])),
    },
    aggs: {},
  };
  if (chosen.length) {
    body.post_filter = { bool: { filter: chosen.map(([column, values]) => facetFilter(column, values)) } };
  }
  if (state.sort) {
    const [column, order] = state.sort.split(/:(?=[^:]*$)/);
    body.sort = [{ [column]: { order } }, "_score"];
  }
  // Each facet counts under the choices made in the others, so that its own values stay choosable.
  for (const facet of state.facets) {
    const others = chosen.filter(([column]) => column !== facet.column).map(([column, values]) => facetFilter(column, values));
    body.aggs[facet.path] = {
      filter: { bool: { filter: others } },
      aggs: { values: { terms: { field: facet.column, size: FACET_BUCKETS } } },
    };
  }
  return body;
}

// Runs the search of `state`. What the user asked for is kept in the address at once; a `quiet` run
// only looks whether the same search has another answer by now.
async function run({ quiet = false } = {}) {
  if (!quiet) remember();
  const ticket = ++newest;
  try {
    const result = await api(`/${encodeURIComponent(state.index)}/_search`, searchBody());
    if (ticket !== newest) return;
    element("error").hidden = true;
    const content = JSON.stringify([result.answer.hits, result.answer.aggregations]);
    if (!quiet || content !== state.shown?.content) render(result);
    state.shown = { lsn: result.lsn, at: Date.now(), content };
  } catch (error) {
    if (ticket !== newest) return;
    element("error").textContent = error.message;
    element("error").hidden = false;
  }
  answered = ticket;
  renderFreshness();
}

// ---- showing it ----

function make(tag, text, ...children) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  node.append(...children);
  return node;
}

function marked(tag, text) {
  const node = document.createElement(tag);
  text.split(MARK_BEGIN).forEach((part, number) => {
    if (number === 0) return node.append(part);
    const [match, ...rest] = part.split(MARK_END);
    return node.append(make("mark", match), rest.join(""));
  });
  return node;
}

function valueAt(source, path) {
  return path.split(".").reduce((value, name) => (value === null || value === undefined ? undefined : value[name]), source);
}

const asText = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));

function renderHit(hit) {
  const source = hit._source ?? {};
  const shown = (field) => {
    const fragments = hit.highlight?.[field.path];
    if (fragments) return fragments.join(" … ");
    const value = valueAt(source, field.path);
    return value === undefined || value === null || value === "" ? null : asText(value);
  };
  const title = state.fields.find((field) => isTitle(field) && shown(field));
  const item = document.createElement("li");
  item.dataset.id = hit._id;
  item.append(marked("h2", title ? shown(title) : hit._id));
  const long = state.fields
    .filter((field) => field !== title && field.type === "text" && shown(field))
    .sort((a, b) => Boolean(hit.highlight?.[b.path]) - Boolean(hit.highlight?.[a.path]) || shown(b).length - shown(a).length);
  if (long.length) item.append(marked("p", clip(shown(long[0]))));
  const rest = state.fields.filter((field) => field !== title && field !== long[0] && shown(field)).slice(0, 8);
  const list = make("dl");
  for (const field of rest) list.append(make("div", null, make("dt", field.path), marked("dd", clip(shown(field), 120))));
  item.append(list);
  item.append(make("details", null, make("summary", `_id ${hit._id}`), make("pre", JSON.stringify(source, null, 2))));
  return item;
}

// Shortens a text, but not within a marked match.
function clip(text, length = 360) {
  if (text.length <= length || text.includes(MARK_BEGIN)) return text;
  return `${text.slice(0, length)}…`;
}

function renderFacet(facet, buckets) {
  const chosen = state.filters[facet.column] ?? [];
  const box = make("fieldset", null, make("legend", facet.path));
  const missing = chosen.filter((value) => !buckets.some((bucket) => facetValue(bucket) === value));
  for (const bucket of [...buckets, ...missing.map((value) => ({ key: value, doc_count: 0 }))]) {
    const value = facetValue(bucket);
    const check = make("input");
    check.type = "checkbox";
    check.checked = chosen.includes(value);
    check.addEventListener("change", () => {
      state.filters[facet.column] = check.checked ? [...chosen, value] : chosen.filter((other) => other !== value);
      state.page = 0;
      run();
    });
    const name = make("span", String(value));
    name.title = String(value);
    const count = make("span", bucket.doc_count.toLocaleString());
    count.className = "count";
    box.append(make("label", null, check, name, count));
  }
  return box;
}

const facetValue = (bucket) => bucket.key_as_string ?? bucket.key;

function render({ answer, cache }) {
  const { total, hits } = answer.hits;
  const many = `${total.relation === "gte" ? "more than " : ""}${total.value.toLocaleString()}`;
  const from = cache === "hit" ? ", from the cache" : "";
  element("summary").textContent = `${many} ${total.value === 1 ? "result" : "results"} in ${answer.took} ms${from}`;
  element("hits").replaceChildren(...hits.map(renderHit));
  const open = document.activeElement?.closest?.("#facets");
  if (!open) renderFacets(answer);
  else queueMicrotask(() => renderFacets(answer, true));
  const last = Math.ceil(Math.min(total.value, MAX_WINDOW) / PAGE_SIZE);
  element("page").textContent = last ? `Page ${state.page + 1} of ${total.relation === "gte" ? "many" : last}` : "";
  element("previous").disabled = state.page === 0;
  element("next").disabled = state.page + 1 >= last;
}

function renderFacets(answer, keepFocus = false) {
  const boxes = [...document.querySelectorAll("#facets input")];
  const focused = keepFocus ? boxes.indexOf(document.activeElement) : -1;
  const facets = state.facets.map((facet) => renderFacet(facet, answer.aggregations[facet.path].values.buckets));
  element("facets").replaceChildren(...facets.filter((facet) => facet.children.length > 1));
  document.querySelectorAll("#facets input")[focused]?.focus();
}

function renderFreshness() {
  const place = element("freshness");
  if (!state.shown) return;
  const seconds = Math.round((Date.now() - state.shown.at) / 1000);
  const age = seconds < 2 ? "now" : `${seconds} s ago`;
  place.className = seconds < 5 ? "live" : "stale";
  place.textContent = state.shown.lsn
    ? `Shown as of LSN ${state.shown.lsn}, checked ${age}`
    : `Not following a database, checked ${age}`;
}

// ---- the address keeps the search, so that it can be shared ----

function remember() {
  const address = new URLSearchParams({ index: state.index });
  if (state.text) address.set("q", state.text);
  if (state.sort) address.set("sort", state.sort);
  if (state.page) address.set("page", String(state.page + 1));
  const chosen = Object.entries(state.filters).filter(([, values]) => values.length);
  if (chosen.length) address.set("filters", JSON.stringify(Object.fromEntries(chosen)));
  history.replaceState(null, "", `#${address}`);
}

function recall() {
  const address = new URLSearchParams(location.hash.slice(1));
  state.text = address.get("q") ?? "";
  state.sort = address.get("sort") ?? "";
  state.page = Math.max(0, (Number.parseInt(address.get("page") ?? "1", 10) || 1) - 1);
  try {
    const filters = JSON.parse(address.get("filters") ?? "{}");
    state.filters = Object.fromEntries(Object.entries(filters).filter(([, values]) => Array.isArray(values)));
  } catch {
    state.filters = {};
  }
  element("query").value = state.text;
  return address.get("index");
}

async function listIndexes() {
  const { answer } = await api("/_cat/indices?format=json&h=index,docs.count&s=index");
  return answer.map((row) => row.index);
}

async function start() {
  const wanted = recall();
  const indexes = await listIndexes();
  element("index").replaceChildren(...indexes.map((name) => new Option(name, name)));
  if (!indexes.length) {
    element("summary").textContent = "There is no index yet. They appear here as soon as there is one.";
    setTimeout(start, POLL_MS);
    return;
  }
  const index = indexes.includes(wanted) ? wanted : indexes[0];
  element("index").value = index;
  await openIndex(index);
  await run();
  listen();
}

function listen() {
  element("form").addEventListener("submit", (event) => event.preventDefault());
  element("query").addEventListener("input", (event) => {
    state.text = event.target.value;
    state.page = 0;
    run();
  });
  element("index").addEventListener("change", async (event) => {
    Object.assign(state, { filters: {}, page: 0, sort: "" });
    await openIndex(event.target.value);
    run();
  });
  element("sort").addEventListener("change", (event) => {
    Object.assign(state, { sort: event.target.value, page: 0 });
    run();
  });
  const turn = (by) => () => {
    state.page += by;
    run();
    window.scrollTo({ top: 0 });
  };
  element("previous").addEventListener("click", turn(-1));
  element("next").addEventListener("click", turn(1));
  // What is shown follows the database: the same search again, cheap through the result cache. A search
  // under way is waited for: to ask again would drop its answer.
  setInterval(() => {
    const idle = answered === newest && !document.hidden;
    if (idle && !document.querySelector("#hits details[open]")) run({ quiet: true });
    renderFreshness();
  }, POLL_MS);
}

start().catch((error) => {
  element("error").textContent = error.message;
  element("error").hidden = false;
});
