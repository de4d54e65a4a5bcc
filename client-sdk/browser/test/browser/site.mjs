// The web site of somebody who uses the SDK: static files on an origin of its own, which is not the broker's.

import { createServer } from "node:http";
import { once } from "node:events";
import { access, readFile } from "node:fs/promises";
import { extname } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const PAGES = fileURLToPath(new URL("pages/", import.meta.url));
/** Another build of the SDK can be tested by naming its folder. */
const SDK = process.env.SDK_DIST ?? fileURLToPath(new URL("../../dist/", import.meta.url));
const KINDS = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8" };

/** Where a broker listens unless told otherwise, and so what pages say. */
const USUAL_BROKER = "http://127.0.0.1:7400";

/**
 * Serves `pages/`, and the built package under `/sdk/`, as a page without a bundler loads it. Pages that name the usual
 * broker are given `site.broker` in its place.
 */
export async function startSite() {
  await access(`${SDK}/index.js`).catch(() => {
    throw new Error(`there is no ${SDK}/index.js: the SDK is not built (npm run build)`);
  });
  const site = {
    broker: USUAL_BROKER,
    async stop() {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
  const server = createServer(async (request, response) => {
    const [, folder, name] = new URL(request.url, "http://site").pathname.match(/^\/(sdk\/)?([\w-]+\.\w+)$/) ?? [];
    try {
      const file = new URL(name ?? "none", pathToFileURL(`${folder ? SDK : PAGES}/`));
      const body = (await readFile(file, "utf8")).replaceAll(USUAL_BROKER, site.broker);
      response.writeHead(200, { "content-type": KINDS[extname(name)] }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  site.url = `http://127.0.0.1:${port}`;
  /** The same pages, of a site that is not on this machine for all the browser knows. */
  site.foreignUrl = `http://shop.example:${port}`;
  return site;
}
