// The page at argv[2] in Chromium, used with the keyboard alone: the recording argv[3] is what its microphone hears and
// the file that is dropped. What it downloads, what it sent and its pictures go to the folder argv[4]. Prints what was
// seen as JSON.
const fs = require("node:fs");
const path = require("node:path");
const puppeteer = require("puppeteer-core");

const [url, recording, folder] = process.argv.slice(2);
const SHAPES = [[390, "light"], [390, "dark"], [1280, "light"], [1280, "dark"]];

async function open(browser, got) {
  const page = await browser.newPage();
  page.on("console", (message) => message.type() === "log" || got.errors.push(message.text()));
  page.on("pageerror", (error) => got.errors.push(error.message));
  page.on("requestfailed", (request) => {
    const own = request.url().startsWith("blob:"); // a player lets go of a file that it is to read elsewhere
    if (!own) got.errors.push(`${request.url()}: ${request.failure().errorText}`);
  });
  await page.evaluateOnNewDocument(() => {
    window.sent = [];
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (message) {
      if (message instanceof Float32Array) window.sent.push(message.slice());
      return send.call(this, message);
    };
  });
  const session = await browser.target().createCDPSession();
  await session.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: folder });
  await page.goto(url);
  return page;
}

// With the Tab key to what the selector names; false where it is never reached.
async function tab(page, selector) {
  for (let presses = 0; presses < 30; presses++) {
    if (await page.evaluate((selector) => document.activeElement.matches(selector), selector)) return true;
    await page.keyboard.press("Tab");
  }
  return false;
}

async function speak(page, got) {
  await page.waitForSelector("#speak:enabled");
  got.reached = { speak: await tab(page, "#speak") };
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector("#speak").textContent === "Stop");
  await page.waitForSelector("#live .word", { timeout: 60000 });
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector("#speak").textContent === "Start speaking");
  const [text, rate, sent] = await page.evaluate(async () => {
    const text = [...document.querySelectorAll("#live p")].map((line) => line.innerText.trim());
    const octets = new Uint8Array(await new Blob(window.sent).arrayBuffer());
    const binary = octets.reduce((all, octet) => all + String.fromCharCode(octet), "");
    return [text, new AudioContext().sampleRate, btoa(binary)];
  });
  got.said = { text, rate };
  fs.writeFileSync(path.join(folder, "sent.f32"), Buffer.from(sent, "base64"));
}

async function drop(page, got) {
  const content = fs.readFileSync(recording).toString("base64");
  await page.evaluate((content, name) => {
    const octets = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([octets], name));
    document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
  }, content, path.basename(recording));
  await page.waitForSelector("article .word", { timeout: 60000 });
  got.reached.words = await tab(page, "article .word");
  await page.keyboard.press("End");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => !document.querySelector("article audio").paused);
  got.played = await page.evaluate(() => ({
    at: document.querySelector("article audio").currentTime,
    word: document.activeElement.textContent,
  }));
  for (const form of ["txt", "srt", "vtt", "json"]) {
    got.reached[form] = await tab(page, `article .save [aria-label$="${form}"]`);
    await page.keyboard.press("Enter");
  }
  const name = path.basename(recording).replace(/\.[^.]*$/, "");
  const whole = (form) => fs.existsSync(path.join(folder, `${name}.${form}`));
  for (let waits = 0; waits < 100 && !["txt", "srt", "vtt", "json"].every(whole); waits++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// What sticks out of the window, and what it looks like.
async function look(page, got) {
  got.outside = {};
  for (const [width, scheme] of SHAPES) {
    await page.setViewport({ width, height: 900 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    got.outside[`${width} ${scheme}`] = await page.evaluate(() => [...document.querySelectorAll("body *")]
      .filter((shown) => shown.getBoundingClientRect().right > window.innerWidth + 1).map((shown) => shown.outerHTML));
    await page.screenshot({ path: path.join(folder, `${width}-${scheme}.png`), fullPage: true });
  }
}

(async () => {
  const got = { errors: [] };
  const microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
  const browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM,
    headless: "shell",
    args: ["--no-sandbox", "--disable-gpu", ...microphone, `--use-file-for-fake-audio-capture=${recording}%noloop`],
  });
  try {
    const page = await open(browser, got);
    got.roles = await page.evaluate(() => [...document.querySelectorAll("[aria-live], [role=status], [role=alert]")]
      .map((told) => [told.id, told.getAttribute("role"), told.getAttribute("aria-live")]));
    await speak(page, got);
    await drop(page, got);
    await look(page, got);
  } finally {
    await browser.close();
  }
  console.log(JSON.stringify(got));
})();
