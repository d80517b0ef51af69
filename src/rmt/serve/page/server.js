// Requests to the server that this page came from, with its token, and patience while it is busy.

let token = "";

export function useToken(text) {
  token = text;
}

// The JSON of an answer. `onBusy(seconds)` is called before each wait. Errors have a `message` for people and a `status`.
export async function ask(path, options = {}, onBusy = () => {}) {
  for (let attempt = 0; ; attempt++) {
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("The server does not answer. Is it still running?");
    }
    if (response.ok) return response.json();
    if (response.status === 503 && attempt < 5) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      onBusy(seconds);
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    const content = await response.json().catch(() => null);
    throw Object.assign(new Error(content?.error?.message ?? `status ${response.status}`), { status: response.status });
  }
}

// The answer to one image.
export async function askAbout(path, file, onBusy) {
  const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
  return (await ask(path, options, onBusy)).results[0];
}
