// A stand-in for the library of the Teams client, for the windows that the playground
// opens. It tells the playground, and nobody else, how the popup ended.
"use strict";
(() => {
  const home = new URL(document.currentScript.src).origin;
  const client = window.opener;
  const tell = (message) => client.postMessage({ type: "extension", ...message }, home);
  window.microsoftTeams = {
    app: {
      initialize: () => client ? Promise.resolve() : Promise.reject(new Error("no client has opened this window")),
      getContext: () => Promise.resolve({}),
    },
    authentication: { notifySuccess: (code) => tell({ code }), notifyFailure: (reason) => tell({ reason }) },
  };
})();
