// The experiment: consent, instructions, practice, tasks, end. Texts are in texts.js. Where the page is served by
// `spade-xai study serve` (host.js says so) tasks and answers go over its API one by one; on any other host the tasks of
// one list come from lists.js, and the answers are handed to JATOS where there is one, else offered for download.
"use strict";

(() => {
  const texts = window.STUDY_TEXTS;
  const host = window.STUDY_HOST;
  const CHOICES = ["left", "right", "both", "neither"];
  const KEYS = { arrowleft: 0, arrowright: 1, b: 2, n: 3 };
  const memory = `spade-study-${texts.study}`;
  const escape = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  const paragraphs = (text) => text.split(/\n\s*\n/).map((part) => `<p>${escape(part)}</p>`).join("");
  const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  const status = Object.assign(document.createElement("p"), { id: "status" });
  status.setAttribute("role", "status");
  const say = (text) => { status.textContent = text; };

  const load = (source) => new Promise((done, failed) => {
    const script = document.createElement("script");
    Object.assign(script, { src: source, onload: done, onerror: () => failed(new Error(source)) });
    document.head.append(script);
  });

  // What is remembered in the rater's browser, so that a reload goes on; nothing where storage is switched off.
  const stored = {
    read() { try { return JSON.parse(localStorage.getItem(memory)); } catch { return null; } },
    write(value) { try { localStorage.setItem(memory, JSON.stringify(value)); } catch { /* none */ } },
    forget() { try { localStorage.removeItem(memory); } catch { /* none */ } },
  };

  // ---- where tasks come from and answers go ----

  class Server {
    constructor() { this.session = stored.read(); this.over = null; }

    // Asks again until the server answers: it may be starting anew, and an answer that it has is not saved twice.
    async ask(method, path, body) {
      for (let pause = 500; ; pause = Math.min(2 * pause, 8000)) {
        let response = null;
        try {
          response = await fetch(path, {
            method, cache: "no-store", body: body && JSON.stringify(body),
            headers: {
              "Content-Type": "application/json",
              ...(this.session ? { Authorization: `Bearer ${this.session.token}` } : {}),
            },
          });
        } catch { /* no connection */ }
        if (response && response.status !== 429 && response.status < 500) { say(""); return response; }
        say(texts.retry);
        await wait(pause);
      }
    }

    async resume() {
      if (!this.session?.token) return null;
      const response = await this.ask("GET", "api/task");
      if (!response.ok) { this.session = null; stored.forget(); return null; }
      return response.json();
    }

    async start() {
      const response = await this.ask("POST", "api/raters", { consent: true });
      if (!response.ok) { this.over = (await response.json()).error; return null; }
      this.session = await response.json();
      stored.write(this.session);
      return this.resume();
    }

    async save(answer) {
      const response = await this.ask("POST", "api/answers", answer);
      if (response.ok) return response.json();
      this.over = texts.lost; // the answers were deleted meanwhile
      return { position: 0, of: 0, task: null };
    }

    async withdraw() {
      await this.ask("DELETE", "api/rater");
      stored.forget();
    }

    get rater() { return this.session.rater; }

    async finish() { stored.forget(); } // somebody else may take part in this browser

    ended() {
      if (this.over) return `<p>${escape(this.over)}</p>`;
      return `<p>${escape(texts.saved)}</p><p class="small">${escape(texts.code)} <b>${escape(this.rater)}</b></p>`;
    }
  }

  class Files {
    constructor() { this.answers = []; }

    async resume() {
      await load("lists.js");
      if (location.pathname.includes("/publix/")) {
        await load("jatos.js");
        await new Promise((done) => jatos.onLoad(done));
      }
      const kept = stored.read();
      if (!kept || kept.study !== texts.study) return null;
      Object.assign(this, kept);
      return this.current();
    }

    async start() {
      const lists = window.STUDY_LISTS;
      const asked = Number.parseInt(new URLSearchParams(location.search).get("list"), 10);
      this.list = Number.isInteger(asked) ? ((asked % lists.length) + lists.length) % lists.length
        : Math.floor(Math.random() * lists.length);
      this.rater = [...crypto.getRandomValues(new Uint8Array(8))].map((n) => n.toString(16).padStart(2, "0")).join("");
      this.answers = [];
      this.remember();
      return this.current();
    }

    remember() { stored.write({ study: texts.study, list: this.list, rater: this.rater, answers: this.answers }); }

    current() {
      const tasks = window.STUDY_LISTS[this.list];
      const position = this.answers.length;
      return { position, of: tasks.length, task: tasks[position] || null };
    }

    async save(answer) { this.answers.push(answer); this.remember(); return this.current(); }

    async withdraw() { this.answers = []; stored.forget(); }

    async finish() {
      if (window.jatos) await jatos.endStudy(this.result());
      else if (host.save) await host.save(this.result());
      stored.forget();
    }

    result() {
      return { format: "spade_xai.Answers.1", study: texts.study, list: this.list, rater: this.rater, answers: this.answers };
    }

    ended() {
      const data = `data:application/json,${encodeURIComponent(JSON.stringify(this.result()))}`;
      const link = `<a class="jspsych-btn" download="answers-${this.rater}.json" href="${data}">${escape(texts.download)}</a>`;
      return window.jatos || host.save ? "" : `<p>${escape(texts.send)}</p><p>${link}</p>`;
    }
  }

  // ---- pages ----

  const study = host.kind === "server" ? new Server() : new Files();
  let current = null;
  const jsPsych = initJsPsych();
  const button = (label, index) => `<button class="jspsych-btn${index ? " second" : ""}">${escape(label)}</button>`;

  const figures = (task) => `<div class="pair">
    <figure><figcaption>${escape(texts.picture)}</figcaption><img src="${task.picture}" alt="${escape(texts.picture)}"></figure>
    <figure><figcaption>${escape(texts.pattern)}</figcaption><img src="${task.pattern}" alt="${escape(texts.pattern)}"></figure></div>
    <p class="question">${escape(texts.question)}</p>`;

  const choice = (task) => (label, index) => index < 2
    ? `<button type="button" class="region"><img src="${index ? task.right : task.left}" alt=""><span>${label}</span></button>`
    : `<button type="button" class="neither">${label}</button>`;

  // Arrow keys and letters press the buttons; a key that is still held down from the task before presses none.
  const keys = () => {
    const buttons = [...document.querySelectorAll("#jspsych-html-button-response-btngroup button")];
    jsPsych.pluginAPI.getKeyboardResponse({
      callback_function: ({ key }) => buttons[KEYS[key.toLowerCase()]].click(),
      valid_responses: ["ArrowLeft", "ArrowRight", "b", "n", "B", "N"], persist: false, allow_held_key: false,
    });
    scrollTo(0, 0);
  };

  const pictures = (task) => Promise.all([task.picture, task.pattern, task.left, task.right].map((source) => {
    const image = new Image();
    image.src = source;
    return image.decode().catch(() => undefined);
  }));

  const trial = (task, above, done) => ({
    type: jsPsychHtmlButtonResponse,
    stimulus: () => above() + figures(task()),
    choices: texts.choices,
    button_html: (label, index) => choice(task())(label, index),
    grid_rows: 2, grid_columns: 2,
    on_load: keys,
    on_finish: done,
  });

  const call = (run) => ({ type: jsPsychCallFunction, async: true, func: (done) => run().then(() => done()) });
  const message = (content, choices, after) => ({
    type: jsPsychHtmlButtonResponse, stimulus: content, choices, button_html: button, button_layout: "flex",
    on_finish: (data) => after && after(data.response),
  });

  // ---- the course of things ----

  let agreed = false;
  const consent = {
    timeline: [
      message(`<h1>${escape(texts.title)}</h1><div class="consent" tabindex="0">${paragraphs(texts.consent)}</div>`, texts.agree,
        (response) => { agreed = response === 0; }),
      { timeline: [call(async () => { current = await study.start(); })], conditional_function: () => agreed },
    ],
  };
  const back = { timeline: [message(() => `<h1>${escape(texts.title)}</h1><p>${escape(texts.back)}</p>`, [texts.go_on])] };

  const instructions = {
    type: jsPsychInstructions, pages: texts.pages, show_clickable_nav: true, show_page_number: true, allow_keys: true,
    button_label_previous: texts.previous, button_label_next: texts.next, page_label: texts.page,
  };

  const practice = texts.practice.map((example) => ({
    timeline: [
      trial(() => example, () => `<h2>${escape(texts.practice_title)}</h2>`,
        (data) => { example.chosen = CHOICES[data.response]; }),
      message(() => `<h2>${escape(texts.practice_title)}</h2><p class="note">${
        escape(example.right_choices.includes(example.chosen) ? texts.right : texts.wrong)} ${escape(example.because)}</p>`, [texts.next]),
    ],
  }));

  let answer = null;
  const tasks = {
    timeline: [
      call(() => pictures(current.task)),
      trial(() => current.task,
        () => `<div class="how"><label for="done">${escape(texts.progress.replace("{n}", current.position + 1).replace("{of}", current.of))}</label>
          <progress id="done" max="${current.of}" value="${current.position}"></progress>
          <span>${escape(texts.code)} ${escape(study.rater)}</span></div>`,
        (data) => { answer = { position: current.position, task: current.task.task, choice: CHOICES[data.response], milliseconds: data.rt }; }),
      call(async () => { current = await study.save(answer); }),
    ],
    loop_function: () => Boolean(current && current.task),
  };

  let wish = 0;
  const end = [
    message(() => `<h1>${escape(texts.thanks)}</h1>${study.ended()}<p>${escape(texts.withdraw)}</p>`, texts.finish,
      (response) => { wish = response; }),
    {
      timeline: [call(() => study.withdraw()), message(`<p>${escape(texts.withdrawn)}</p>`, [])],
      conditional_function: () => wish === 1,
    },
    call(() => study.finish()),
    message(() => `<p>${escape(texts.close)}</p>`, []),
  ];

  const only = (timeline, condition) => ({ timeline: [].concat(timeline), conditional_function: condition });

  (async () => {
    document.documentElement.append(status); // jsPsych has the body to itself
    current = await study.resume();
    const resumed = current !== null;
    const begun = resumed && current.position > 0;
    await jsPsych.run([
      only(consent, () => !resumed),
      only(message(() => `<p>${escape(study.over || texts.declined)}</p>`, []), () => current === null),
      only(back, () => begun && current.task !== null),
      only([instructions, ...practice, message(`<h1>${escape(texts.ready_title)}</h1><p>${escape(texts.ready)}</p>`, [texts.begin])], () => !begun),
      only(tasks, () => current.task !== null),
      ...end,
    ]);
  })();
})();
