() => {
  // What is pressed on a timeline or in a list of segments is played.
  const play = (element, time) => {
    const audio = element.closest(".speech").querySelector("audio");
    if (!audio) return;
    audio.currentTime = time;
    audio.play().catch(() => {});
  };
  const copy = async (button) => {
    const text = button.parentElement.querySelector(".text").innerText;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Pages that are not served from this machine or over https have no clipboard.
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
  document.addEventListener("click", (event) => {
    const cue = event.target.closest("[data-start]");
    const canvas = event.target.closest(".canvas");
    const button = event.target.closest("[data-copy]");
    if (cue) play(cue, Number(cue.dataset.start));
    else if (canvas) {
      const box = canvas.getBoundingClientRect();
      play(canvas, ((event.clientX - box.left) / box.width) * Number(canvas.dataset.duration));
    } else if (button) copy(button);
    if (event.target.closest("#run, #examples button")) setTimeout(show, 200);
  });
  // On a phone the result is below what was pressed, and the page as yet too short to bring it up.
  const show = () => {
    const tabs = document.querySelector("#tabs");
    const top = tabs.getBoundingClientRect().top;
    if (top >= 0 && top < window.innerHeight / 2) return;
    tabs.style.minHeight = "100svh";
    tabs.scrollIntoView({ behavior: "smooth" });
  };
  setInterval(() => {
    for (const clock of document.querySelectorAll("[data-since]")) {
      clock.dataset.since ||= Date.now();
      clock.textContent = `${Math.round((Date.now() - clock.dataset.since) / 1000)} s`;
    }
  }, 500);
  // These events do not bubble, but they can be caught on their way down.
  document.addEventListener(
    "timeupdate",
    (event) => {
      const page = event.target.closest(".speech");
      if (!page) return;
      const time = event.target.currentTime;
      const canvas = page.querySelector(".canvas");
      canvas.querySelector(".head").style.left = `${(100 * time) / Number(canvas.dataset.duration)}%`;
      for (const cue of page.querySelectorAll("[data-start]"))
        cue.classList.toggle(
          "playing",
          !event.target.paused && Number(cue.dataset.start) <= time && time < Number(cue.dataset.end),
        );
    },
    true,
  );
}
