// @ts-check
// One graph of a saved workflow while its nodes are replaced: nodes, and the links between them.

/**
 * @typedef {Object} Saved a saved node
 * @property {number | string} id
 * @property {string} type
 * @property {any[]} [inputs]
 * @property {any[]} [outputs]
 * @property {any} [widgets_values]
 * @property {any} [pos]
 * @property {any} [size]
 * @property {number} [mode]
 * @property {Record<string, any>} [properties]
 */

/**
 * @typedef {Object} Link
 * @property {any} id
 * @property {any} from id of the node
 * @property {number} slot
 * @property {any} to
 * @property {number} input
 * @property {string} type
 */

/** Ids of a subgraph's own ends, as the host has them. */
const [INPUT, OUTPUT] = [-10, -20];

/** Room for the title of a node, in canvas units. */
const TITLE = 60;

/** The least height of a node with a text. */
const LEAST = 110;

/** The graph itself, and its subgraphs with their ids. @param {any} workflow @returns {[any, string | null][]} */
export function graphsOf(workflow) {
  const inner = workflow.definitions?.subgraphs ?? [];
  return [[workflow, null], ...inner.map((/** @type {any} */ graph) => [graph, graph.id])];
}

/** Numbers that no node and no link of the workflow has. @param {any} workflow */
export function newIds(workflow) {
  const numbers = (/** @type {any[]} */ values) => values.map(Number).filter(Number.isFinite);
  const graphs = graphsOf(workflow).map(([graph]) => graph);
  let node = Math.max(0, ...graphs.flatMap((graph) => numbers(graph.nodes.map((/** @type {any} */ { id }) => id))));
  const links = graphs.flatMap((graph) => (graph.links ?? []).map((/** @type {any} */ one) => one?.id ?? one?.[0]));
  let link = Math.max(0, ...numbers(links));
  return {
    node: () => ++node,
    link: () => ++link,
    /** @param {any} graph */
    write(graph) {
      if ("last_node_id" in graph) graph.last_node_id = Math.max(graph.last_node_id, node);
      if ("last_link_id" in graph) graph.last_link_id = Math.max(graph.last_link_id, link);
      if (graph.state) {
        graph.state.lastNodeId = Math.max(graph.state.lastNodeId ?? 0, node);
        graph.state.lastLinkId = Math.max(graph.state.lastLinkId ?? 0, link);
      }
    },
  };
}

/**
 * One graph while its nodes are replaced.
 * @param {any} graph
 * @param {ReturnType<typeof newIds>} ids
 */
export function createRoom(graph, ids) {
  const isList = (graph.links ?? []).some(Array.isArray) || !("state" in graph);
  /** @type {Link[]} */
  let links = (graph.links ?? []).filter(Boolean).map(readLink);
  /** Boosters that fed a node which was replaced. */
  const fed = new Set();
  /** Ids before → ids now. @type {Map<string, any>} */
  const renamed = new Map();

  const find = (/** @type {any} */ id) =>
    graph.nodes.find((/** @type {Saved} */ node) => String(node.id) === String(id));
  const into = (/** @type {Saved} */ node, /** @type {string} */ name) => {
    const index = (node.inputs ?? []).findIndex((input) => input.name === name);
    const id = index < 0 ? null : node.inputs?.[index].link;
    return id == null ? undefined : links.find((link) => String(link.id) === String(id));
  };
  const from = (/** @type {Saved} */ node) => links.filter((link) => String(link.from) === String(node.id));

  /** @param {Saved} node @param {string} name @param {string} type @param {Link} link */
  function plug(node, name, type, link) {
    node.inputs ??= [];
    let index = node.inputs.findIndex((input) => input.name === name);
    if (index < 0) index = node.inputs.push({ name, type, link: null }) - 1;
    Object.assign(link, { to: node.id, input: index });
    node.inputs[index].link = link.id;
  }

  return {
    fed,
    renamed,
    nodes: () => [...graph.nodes],
    /** Whether anything takes its outputs, or one of them. @param {Saved} node @param {number} [slot] */
    isRead: (node, slot) => from(node).some((link) => slot === undefined || link.slot === slot),
    /** @param {Saved} node @param {string} name @returns {Saved | undefined} */
    source: (node, name) => find(into(node, name)?.from),

    /** @param {Saved} node @param {number} slot @param {Saved} other @param {number} otherSlot */
    moveOutput(node, slot, other, otherSlot) {
      for (const link of from(node)) if (link.slot === slot) Object.assign(link, { from: other.id, slot: otherSlot });
    },

    /** @param {Saved} node @param {number} slot @param {Saved} other @param {string} name @param {string} type */
    connect(node, slot, other, name, type) {
      const link = { id: ids.link(), from: node.id, slot, to: other.id, input: 0, type };
      links.push(link);
      plug(other, name, type, link);
    },

    /** @param {Saved} node @param {string} name @param {Saved} other @param {string} otherName */
    copyInput(node, name, other, otherName) {
      const link = into(node, name);
      if (!link) return;
      const copy = { ...link, id: ids.link() };
      delete (/** @type {any} */ (copy).parentId);
      links.push(copy);
      plug(other, otherName, link.type, copy);
    },

    /** A node below another one. @param {Saved} beside @param {{type: string, widgets_values: any[]}} made */
    add(beside, made) {
      const [x, y] = pair(beside.pos);
      const [, height] = pair(beside.size);
      const node = {
        ...{ id: ids.node(), pos: [x, y + height + TITLE], flags: {}, order: 0 },
        ...{ mode: beside.mode ?? 0, inputs: [], outputs: [], properties: named(made.type, {}), ...made },
      };
      graph.nodes.push(node);
      return node;
    },

    /** Lets two nodes share the room that one has; gives the size of each. @param {Saved} node @param {any} lower */
    halve(node, lower) {
      const [[x, y], [width, height]] = [pair(node.pos), pair(node.size)];
      const size = [width, Math.max(LEAST, (height - TITLE) / 2)];
      Object.assign(lower, { pos: [x, y + size[1] + TITLE], size });
      return size;
    },

    /**
     * Makes another node of one, at its place. Inputs that are not named are let go of. It has a new id: Nodes 2.0 keeps
     * what it drew of a node by its id, badges included.
     * @param {Saved} node
     * @param {{type: string, widgets_values: any[]}} made
     * @param {(string | [string, string])[]} keep names, or old and new names
     */
    become(node, made, keep) {
      const kept = keep.map((name) => (typeof name === "string" ? [name, name] : name));
      const inputs = kept.flatMap(([old, name]) => {
        const link = into(node, old);
        const input = (node.inputs ?? []).find((one) => one.name === old);
        return link ? [{ link, input: { ...input, name, ...(input.widget ? { widget: { name } } : {}) } }] : [];
      });
      for (const { name } of node.inputs ?? []) {
        const link = into(node, name);
        if (!link || inputs.some((one) => one.link === link)) continue;
        fed.add(link.from);
        links = links.filter((one) => one !== link);
      }
      const { type } = node;
      Object.assign(node, made, { inputs: inputs.map(({ input }) => input) });
      node.properties = named(made.type, node.properties);
      const before = node.id;
      node.id = ids.node();
      renamed.set(String(before), node.id);
      for (const link of from({ ...node, id: before })) link.from = node.id;
      inputs.forEach(({ link }, index) => Object.assign(link, { to: node.id, input: index }));
      node.outputs = (node.outputs ?? []).map((output) => ({ ...output, links: [] }));
      dropTitle(node, type);
      delete node.size; // the host knows how large the new one is
    },

    /**
     * Takes a node away; what came in at `through` goes to whatever took its output. False where that would lead
     * straight through a subgraph, which the host does not draw.
     * @param {Saved} node @param {string} [through]
     */
    takeAway(node, through) {
      const link = through === undefined ? undefined : into(node, through);
      if (Number(link?.from) === INPUT && from(node).some(({ to }) => Number(to) === OUTPUT)) return false;
      for (const out of from(node)) {
        if (link) Object.assign(out, { from: link.from, slot: link.slot });
        else links = links.filter((one) => one !== out);
      }
      for (const one of links.filter(({ to }) => String(to) === String(node.id))) {
        fed.add(one.from);
        links = links.filter((other) => other !== one);
      }
      graph.nodes = graph.nodes.filter((/** @type {Saved} */ one) => one !== node);
      return true;
    },

    /** Puts the links back, and says at both ends which they are. */
    write() {
      graph.links = links.map((link) => writeLink(link, isList));
      const ends = new Set(links.map(({ id }) => String(id)));
      for (const node of graph.nodes) {
        for (const input of node.inputs ?? [])
          if (input.link != null && !ends.has(String(input.link))) input.link = null;
        for (const { slot } of from(node)) {
          node.outputs ??= [];
          while (node.outputs.length <= slot) node.outputs.push({ name: "", type: "*", links: null });
        }
        (node.outputs ?? []).forEach((/** @type {any} */ output, /** @type {number} */ slot) => {
          const own = from(node).filter((link) => link.slot === slot);
          if (own.length) output.type = own[0].type;
          output.links = own.map(({ id }) => id);
        });
      }
      for (const [ends, end] of /** @type {const} */ ([["inputs", "from"], ["outputs", "to"]])) {
        const slot = end === "from" ? "slot" : "input";
        const number = end === "from" ? INPUT : OUTPUT;
        if ("state" in graph && Array.isArray(graph[ends]))
          graph[ends].forEach((/** @type {any} */ one, /** @type {number} */ index) => {
            const own = links.filter((link) => Number(link[end]) === number && link[slot] === index);
            one.linkIds = own.map(({ id }) => id);
          });
      }
    },
  };
}

/** @param {any} link a list in a workflow, an object in a subgraph @returns {Link} */
function readLink(link) {
  if (!Array.isArray(link)) {
    const { origin_id: from, origin_slot: slot, target_id: to, target_slot: input, ...rest } = link;
    return { ...rest, from, slot, to, input };
  }
  const [id, from, slot, to, input, type] = link;
  return { id, from, slot, to, input, type };
}

/** @param {Link} link @param {boolean} isList */
function writeLink({ id, from, slot, to, input, type, ...rest }, isList) {
  if (isList) return [id, from, slot, to, input, type];
  return { ...rest, id, origin_id: from, origin_slot: slot, target_id: to, target_slot: input, type };
}

/** Files have [x, y], and older ones {"0": x, "1": y}. @param {any} value @returns {[number, number]} */
const pair = (value) => [Number(value?.[0] ?? 0), Number(value?.[1] ?? 0)];

/**
 * What a file says of where a node comes from is not true of the new one.
 * @param {string} type @param {any} properties
 */
function named(type, properties) {
  const { cnr_id: _id, ver: _version, aux_id: _other, onediff: _receipt, ...rest } = properties ?? {};
  return { ...rest, "Node name for S&R": type };
}

/**
 * A title that the node had from its type goes; one that a person gave stays.
 * @param {any} node @param {string} type
 */
function dropTitle(node, type) {
  const plain = (/** @type {string} */ text) => text.replaceAll(/[^a-z0-9]/gi, "").toLowerCase();
  const titles = [type, "Load Checkpoint - OneDiff", "Load Checkpoint - OneDiff Quant", "Quant K Sampler"];
  titles.push("Load Checkpoint - OneDiff Quant Advanced", "Load Checkpoint - OneDiff Quant Advanced (img2vid)");
  titles.push("CLIP Text Encode(PromptStyle)");
  if (typeof node.title === "string" && titles.map(plain).includes(plain(node.title))) delete node.title;
}
