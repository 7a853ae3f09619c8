// @ts-check
/**
 * Execution ids: the server knows a node in subgraphs by the path to it ("12:7:5"), the page by its id in its own graph.
 *
 * @typedef {object} GraphNode
 * @property {string|number} id
 * @property {Graph} [graph]
 * @property {Graph} [subgraph] What a subgraph node holds; one definition may be held by several.
 *
 * @typedef {object} Graph
 * @property {GraphNode[]} [nodes]
 * @property {GraphNode[]} [_nodes]
 */

/**
 * Every execution id that a node has, in the order of the graph; none while it is in no graph below `root`.
 * @param {Graph|null|undefined} root
 * @param {GraphNode} node
 * @returns {string[]}
 */
export function executionIds(root, node) {
  if (!root || !node.graph) return [];
  return pathsTo(root, node.graph).map((path) => [...path, node.id].join(":"));
}

/** @param {Graph} graph @param {Graph} wanted @returns {(string|number)[][]} */
function pathsTo(graph, wanted) {
  if (graph === wanted) return [[]]; // a graph never holds itself
  return (graph.nodes ?? graph._nodes ?? []).flatMap(({ id, subgraph }) =>
    subgraph ? pathsTo(subgraph, wanted).map((path) => [id, ...path]) : [],
  );
}
