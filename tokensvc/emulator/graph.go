package emulator

import (
	"cmp"
	"net/http"
)

type profile struct {
	DisplayName       string `json:"displayName"`
	GivenName         string `json:"givenName"`
	JobTitle          string `json:"jobTitle,omitempty"`
	Mail              string `json:"mail"`
	UserPrincipalName string `json:"userPrincipalName"`
	ID                string `json:"id"`
}

// me answers GET /v1.0/me: the Graph profile of the user whose token it gets.
func (s *Server) me(w http.ResponseWriter, in *incoming) {
	s.mu.Lock()
	held, ok := s.issued[bearer(in.request)]
	ok = ok && s.cfg.Now().Before(held.expires)
	s.mu.Unlock()
	if !ok {
		refuse(w, http.StatusUnauthorized, "InvalidAuthenticationToken", "Access token validation failure.")
		return
	}
	u := s.user(held.user)
	answerJSON(w, statusOK, profile{
		DisplayName: u.Name, GivenName: u.Name, JobTitle: u.JobTitle,
		Mail: u.Mail, UserPrincipalName: u.Mail, ID: u.AADObjectID,
	})
}

// DefaultUser is the user that [NewTeams] sends as, and [Server.Teams] unless the
// configuration has users.
func DefaultUser() User {
	return User{
		ID:          "29:1emulated-user",
		Name:        "Robin",
		AADObjectID: "03500558-0000-4000-8000-000000000001",
		Mail:        "robin@contoso.example",
		JobTitle:    "Emulated",
	}
}

// user returns the user with an id. Members that the configuration does not have
// are those of [DefaultUser].
func (s *Server) user(id string) User {
	u := DefaultUser()
	for _, known := range s.cfg.Users {
		if known.ID == id {
			return User{
				ID:          id,
				Name:        cmp.Or(known.Name, u.Name),
				AADObjectID: cmp.Or(known.AADObjectID, u.AADObjectID),
				Mail:        cmp.Or(known.Mail, u.Mail),
				JobTitle:    known.JobTitle,
			}
		}
	}
	u.ID = id
	return u
}
