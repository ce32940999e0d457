"use strict";
// The live part: asks this page's own host, and shows all text as text.
(() => {
  const at = id => document.getElementById(`lens-${id}`);
  const number = id => Number(at(id).value);
  const side = id => at(id).querySelector(".side");
  const { words } = JSON.parse(at("choices").textContent);
  let seen = null; // the window that is shown
  const latest = {}; // of each question the newest; older answers are dropped

  async function ask(path, parameters, then, failed = () => {}) {
    const turn = latest[path] = (latest[path] || 0) + 1;
    document.body.dataset.busy = path;
    try {
      const response = await fetch(`/${path}?${new URLSearchParams(parameters)}`);
      const answer = await response.json();
      if (turn !== latest[path]) return;
      at("problem").textContent = answer.problem || "";
      await (answer.problem ? failed() : then(answer));
    } catch (error) {
      failed();
      at("problem").textContent = `The lens does not answer; is it still running? (${error.message})`;
    } finally {
      if (turn === latest[path] && document.body.dataset.busy === path) delete document.body.dataset.busy;
    }
  }

  // A moment on the time axis as a number, whether it is a date or a count.
  const moment = value => typeof value === "number" ? value
    : Date.parse(`${value.replace(" ", "T").slice(0, 23)}${value.length <= 10 ? "T00:00" : ""}Z`);
  function nearest(value) {
    if (words) { // a place on the axis, or what stands there
      const drawn = side("sequence").querySelector(".plot")._fullLayout.xaxis._categories;
      const place = Math.min(Math.max(Math.round(value), 0), drawn.length - 1);
      return seen.times.indexOf(typeof value === "number" ? drawn[place] : value);
    }
    const wanted = moment(value);
    let best = 0;
    seen.times.forEach((time, k) => {
      if (Math.abs(moment(time) - wanted) < Math.abs(moment(seen.times[best]) - wanted)) best = k;
    });
    return best;
  }

  function showWindow() {
    const fresh = seen === null;
    ask("window", { row: number("row"), layer: number("layer"), target: number("target") }, async answer => {
      seen = answer;
      if (fresh) at("unit").value = String(answer.unit);
      answer.sequence.layout.dragmode = "select";
      answer.sequence.layout.selectdirection = "h";
      const plot = side("sequence").querySelector(".plot"), heat = side("gates").querySelector(".plot");
      await tidegate.show(side("sequence"), answer.sequence);
      await tidegate.show(side("gates"), answer.gates);
      if (fresh) {
        plot.on("plotly_click", event => choose(nearest(event.points[0].x)));
        plot.on("plotly_selected", event => {
          if (!event || !event.range) return;
          const [from, to] = event.range.x.map(nearest).sort((a, b) => a - b);
          at("start").value = from;
          at("end").value = Math.min(to + 1, seen.times.length);
          findMatches();
        });
        heat.on("plotly_click", event => {
          at("unit").value = event.points[0].y.replace(/\D/g, "");
          choose(nearest(event.points[0].x));
        });
      }
      for (const [id, last] of [["at", 1], ["start", 1], ["end", 0]]) at(id).max = seen.times.length - last;
      choose(Math.min(number("at"), seen.times.length - 1));
    });
  }

  function choose(step) {
    at("at").value = step;
    at("when").textContent = seen.names[step];
    showValue();
    tidegate.show(side("edit"), seen.sequence); // an edit of another moment is not shown any more
    const asked = { row: number("row"), layer: number("layer"), unit: number("unit"), at: step, target: number("target") };
    ask("ledger", asked, charts => {
      const plots = at("ledger").querySelector(".plots");
      while (plots.children.length > charts.length) plots.lastChild.remove();
      while (plots.children.length < charts.length) plots.append(side("sequence").cloneNode(false));
      return Promise.all(charts.map((chart, k) => {
        const element = plots.children[k];
        if (!element.children.length) {
          const [title, legend, plot, facts] = ["h4", "p", "div", "ul"].map(tag => document.createElement(tag));
          legend.className = "legend";
          plot.className = "plot";
          plot.style.height = "300px";
          facts.className = "facts";
          element.append(title, legend, plot, facts);
        }
        return tidegate.show(element, chart);
      }));
    });
  }

  function showValue() {
    const value = seen.x[number("at")][number("input")];
    at("value").value = value;
    at("was").textContent = words ? `(it read “${value}”)` : `(it read ${value})`;
  }

  function findMatches() {
    const asked = { row: number("row"), layer: number("layer"), start: number("start"), end: number("end"),
      threshold: number("threshold") };
    ask("matches", asked, answer => {
      at("units").textContent = answer.units.length
        ? `Units that mark it: ${answer.units.join(", ")}. Found elsewhere: ${answer.spans.length}.`
        : "No unit is on throughout this span and off at its edges; try another threshold or span.";
      const rows = answer.spans.map(span => {
        const row = document.createElement("tr");
        for (const text of [span.series, span.from, span.to, span.score]) {
          const cell = document.createElement("td");
          cell.textContent = text;
          row.append(cell);
        }
        const go = document.createElement("button"), cell = document.createElement("td");
        go.textContent = "show";
        go.type = "button";
        go.addEventListener("click", () => { at("row").value = span.row; at("at").max = span.end; at("at").value = span.end - 1; showWindow(); });
        cell.append(go);
        row.append(cell);
        return row;
      });
      const head = document.createElement("tr");
      for (const text of ["sequence", "from", "to", "share of units", ""]) {
        const cell = document.createElement("th");
        cell.textContent = text;
        head.append(cell);
      }
      at("spans").replaceChildren(...(rows.length ? [head, ...rows] : []));
    }, () => {
      at("units").textContent = "";
      at("spans").replaceChildren();
    });
  }

  function predict() {
    const asked = { row: number("row"), at: number("at"), place: number("input"), value: at("value").value,
      target: number("target") };
    ask("edit", asked, chart => tidegate.show(side("edit"), chart), () => seen && tidegate.show(side("edit"), seen.sequence));
  }

  for (const id of ["row", "layer", "target"]) at(id).addEventListener("change", showWindow);
  at("unit").addEventListener("change", () => choose(number("at")));
  at("at").addEventListener("change", () => choose(number("at")));
  at("input").addEventListener("change", showValue);
  at("find").addEventListener("click", findMatches);
  at("predict").addEventListener("click", predict);
  at("value").addEventListener("keydown", event => { if (event.key === "Enter") predict(); });
  showWindow();
})();
