// Reports the result of the popup to the Teams client.
(function () {
  "use strict";
  var result = document.getElementById("result");
  var code = result.dataset.code;
  var user = result.dataset.user.toLowerCase();

  // Remove the provider's code from the address, so that the history does not keep it.
  try {
    history.replaceState(null, "", location.pathname);
  } catch (e) {
    // This client has no history.
  }

  function stay() {
    document.getElementById("stay").hidden = false;
  }

  function after(ms, value) {
    return new Promise(function (resolve) {
      setTimeout(function () { resolve(value); }, ms);
    });
  }

  // Any app can open any address in a popup of Teams. So ask the client who its user is:
  // a code that was made for another user must not be passed on, or that other user
  // would be signed in with this user's account.
  function isMine(teams) {
    if (!user) {
      return Promise.resolve(true);
    }
    var asked = teams.app.getContext().then(function (context) {
      var id = context && context.user && context.user.id;
      return !id || id.toLowerCase() === user;
    }, function () { return true; });
    return Promise.race([asked, after(3000, true)]);
  }

  // The client closes the window as soon as it is told of a failure. So tell it only
  // after the user had time to read the page.
  function fail(teams, reason) {
    var told = false;
    function tell() {
      if (!told) {
        told = true;
        teams.authentication.notifyFailure(reason);
      }
    }
    var button = document.getElementById("close");
    button.hidden = false;
    button.addEventListener("click", tell);
    setTimeout(tell, 20000);
  }

  var teams = window.microsoftTeams;
  if (!teams) {
    stay();
    return;
  }
  setTimeout(stay, 5000);
  teams.app.initialize().then(function () {
    if (!code) {
      fail(teams, result.dataset.reason);
      return undefined;
    }
    return isMine(teams).then(function (mine) {
      if (mine) {
        teams.authentication.notifySuccess(code);
        return;
      }
      document.getElementById("heading").textContent = document.getElementById("heading").dataset.failed;
      document.getElementById("text").textContent = document.getElementById("text").dataset.other;
      stay();
      fail(teams, "other_user");
    });
  }).catch(stay);
})();
