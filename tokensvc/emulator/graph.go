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

// me is Graph's profile of whoever the token was issued to.
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

// DefaultUser is who [Server.Teams] speaks for, unless the configuration has
// users.
func DefaultUser() User {
	return User{
		ID:          "29:1emulated-user",
		Name:        "Robin",
		AADObjectID: "03500558-0000-4000-8000-000000000001",
		Mail:        "robin@contoso.example",
		JobTitle:    "Emulated",
	}
}

// user fills in whatever the configuration does not say.
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
