/* Draws who calls whom from the data beside the table; dagre says where each box goes. */
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const picture = document.getElementById("map-picture");
  const HEIGHT = 34, LETTER = 7.6, NAMESPACE = "http://www.w3.org/2000/svg";
  let drawn = "";

  function element(name, attributes, ...children) {
    const made = document.createElementNS(NAMESPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function layout({ nodes, edges }) {
    const graph = new dagre.graphlib.Graph({ multigraph: false });
    graph.setGraph({ rankdir: "LR", nodesep: 14, ranksep: 70, marginx: 12, marginy: 12 });
    graph.setDefaultEdgeLabel(() => ({}));
    // Keys of our own: dagre keeps its nodes in plain objects, where a service called "constructor" is there already.
    const keys = new Map(nodes.map((node, number) => [node.name, `node-${number}`]));
    for (const node of nodes) graph.setNode(keys.get(node.name), { width: node.name.length * LETTER + 46, height: HEIGHT, node });
    for (const edge of edges) {
      graph.setEdge(keys.get(edge.from), keys.get(edge.to), { width: edge.label.length * 6.4, height: 14, labelpos: "c", edge });
    }
    dagre.layout(graph);
    return graph;
  }

  function draw() {
    const source = document.getElementById("map-data");
    const text = source ? source.textContent : "";
    if (text === drawn) return;
    drawn = text;
    picture.hidden = !text;
    picture.replaceChildren();
    if (!text) return;
    const data = JSON.parse(text);
    const graph = layout(data);
    const { width, height } = graph.graph();
    const scale = Math.max(0.55, Math.min(1, (picture.clientWidth - 2) / width));
    const most = Math.max(...data.edges.map((edge) => edge.calls));
    const summary = data.edges.map((edge) => `${edge.from} calls ${edge.to}: ${edge.label}`).join("; ");
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width: width * scale, height: height * scale, class: "map", role: "group", "aria-labelledby": "map-title" },
      element("title", { id: "map-title" }, "Who calls whom"), element("desc", {}, summary),
      element("defs", {}, element("marker", { id: "map-arrow", viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 7, markerHeight: 7, markerUnits: "userSpaceOnUse", orient: "auto" },
        element("path", { d: "M0 0L10 5L0 10z", class: "map-arrow" }))));
    for (const key of graph.edges()) {
      const { points, edge, x, y } = graph.edge(key);
      const path = points.map((point, number) => `${number ? "L" : "M"}${point.x} ${point.y}`).join("");
      const strength = 1 + 3 * Math.sqrt(edge.calls / most);
      svg.append(element("path", { d: path, class: edge.failing ? "map-edge map-failing" : "map-edge", "stroke-width": strength.toFixed(1), "marker-end": "url(#map-arrow)" }),
        element("text", { x, y: y + 4, class: edge.failing ? "map-label map-failing-label" : "map-label" }, edge.label));
    }
    for (const key of graph.nodes()) {
      const { x, y, width: wide, height: high, node } = graph.node(key);
      svg.append(element("a", { href: node.url, class: "map-node", "aria-label": `${node.name}: ${node.health}` },
        element("rect", { x: x - wide / 2, y: y - high / 2, width: wide, height: high, rx: 6 }),
        element("text", { x: x - wide / 2 + 12, y: y + 5, class: `map-health status-${node.colour}` }, node.symbol),
        element("text", { x: x - wide / 2 + 30, y: y + 5 }, node.name)));
    }
    picture.append(svg);
  }

  draw();
  document.addEventListener("registry:changed", draw);
});
