"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = (value) => {
    try { return value === undefined ? localStorage.getItem("foretune-theme") : localStorage.setItem("foretune-theme", value); }
    catch { return null; }
  };
  const toggle = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const named = () => { toggle.textContent = isDark() ? "Light page" : "Dark page"; };
  if (["light", "dark"].includes(kept())) root.dataset.theme = kept();
  toggle.hidden = false;
  toggle.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; kept(root.dataset.theme); named(); });
  dark.addEventListener("change", named);
  named();

  const key = (row, place) => {
    const cell = row.cells[place];
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    const text = cell.textContent.trim(), number = Number(text.replace(/,/g, ""));
    return text === "" ? null : Number.isNaN(number) ? text : number;
  };
  const order = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  document.querySelectorAll("table.sortable").forEach((table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => head.querySelector("button")?.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => { if (other !== head && other.querySelector("button")) other.setAttribute("aria-sort", "none"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [key(row, place), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return down ? order(b, a) : order(a, b);
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  });
  document.querySelectorAll(".filter").forEach((part) => {
    const input = part.querySelector("input"), status = part.querySelector("[role=status]");
    const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
    const show = () => {
      const words = input.value.toLowerCase().split(",").map((word) => word.trim()).filter(Boolean);
      let count = 0;
      rows.forEach((row) => {
        const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        count += row.hidden ? 0 : 1;
      });
      status.textContent = `${count} of ${rows.length} rows`;
    };
    input.addEventListener("input", show);
    part.hidden = false;
    show();
  });

  const form = document.getElementById("if");
  if (form) {
    const data = JSON.parse(document.getElementById("numbers").textContent);
    const [rank, most, rate] = ["rank", "most", "rate"].map((name) => document.getElementById(`if-${name}`));
    const answer = document.getElementById("if-answer");
    const whole = (number) => number.toLocaleString("en");
    const said = (item) => `${item.title} (${whole(item.parameters)} parameters): ${data.criterion} ` +
      `${item.value.toFixed(3)}, ${data.metric} ${item.score.toFixed(2)}`;
    const tell = () => {
      const limit = most.value === "" ? Infinity : Number(most.value);
      const kept = data.candidates.filter((item) => item.parameters <= limit &&
        (rank.value === "" || (rank.value === "full" ? item.rank === null : String(item.rank) === rank.value)));
      const lines = [];
      if (kept.length) {
        const best = kept.reduce((a, b) => (b.value < a.value ? b : a));
        lines.push(`The first of ${kept.length} choice${kept.length > 1 ? "s" : ""}: ${said(best)}.`);
        if (data.picked && best.title !== data.picked.title) lines.push(`Recommended above: ${said(data.picked)}.`);
        if (best.tie && best.title !== data.candidates[0].title) lines.push("The resamples cannot tell it from the best.");
      } else {
        const least = data.candidates.filter((item) => rank.value === "" || String(item.rank ?? "full") === rank.value)
          .reduce((a, b) => (b.parameters < a.parameters ? b : a), { parameters: Infinity });
        lines.push(`No choice trains so few parameters. The smallest trains ${whole(least.parameters)}.`);
      }
      const run = rate && data.rates[Number(rate.value)];
      if (run && rate.value !== "") {
        const [value, loss] = run, against = loss === null ? "diverges" : `falls to ${loss.toFixed(3)} nats`;
        const worse = loss === null || loss >= data.start ? ` Do not use this rate: before training it is ${data.start.toFixed(3)}.` :
          ` It is ${data.start.toFixed(3)} before training.`;
        lines.push(`At learning rate ${value.toExponential(1)} the simulated validation loss of ${data.of} ${against}.${worse}`);
      }
      answer.textContent = lines.join("\n");
    };
    ["input", "change"].forEach((event) => form.addEventListener(event, tell));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    tell();
  }
})();
