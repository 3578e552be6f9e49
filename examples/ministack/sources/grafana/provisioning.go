package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// dataSource is one that a provisioning file names.
type dataSource struct {
	ID      int    `json:"id" yaml:"-"`
	UID     string `json:"uid" yaml:"uid"`
	Name    string `json:"name" yaml:"name"`
	Type    string `json:"type" yaml:"type"`
	Access  string `json:"access" yaml:"access"`
	URL     string `json:"url" yaml:"url"`
	Default bool   `json:"isDefault" yaml:"isDefault"`

	target *url.URL
}

// dashboard is one JSON file of a provisioned folder. The miniature hands it
// out and does not draw it.
type dashboard struct {
	UID, Title string
	content    json.RawMessage
}

// provisioned is what the provisioning folder holds.
type provisioned struct {
	sources    []dataSource
	dashboards []dashboard
}

// readProvisioning reads DIR/datasources and DIR/dashboards; either may be missing.
func readProvisioning(dir string) (provisioned, error) {
	var all provisioned
	err := eachYAML(filepath.Join(dir, "datasources"), func(content []byte) error {
		var file struct {
			APIVersion  int          `yaml:"apiVersion"`
			DataSources []dataSource `yaml:"datasources"`
		}
		if err := yaml.Unmarshal(content, &file); err != nil {
			return err
		}
		if file.APIVersion != 1 {
			return fmt.Errorf("apiVersion is %d, not 1", file.APIVersion)
		}
		for _, source := range file.DataSources {
			if err := all.add(source); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return all, err
	}
	err = eachYAML(filepath.Join(dir, "dashboards"), func(content []byte) error {
		var file struct {
			Providers []struct {
				Options struct {
					Path string `yaml:"path"`
				} `yaml:"options"`
			} `yaml:"providers"`
		}
		if err := yaml.Unmarshal(content, &file); err != nil {
			return err
		}
		for _, provider := range file.Providers {
			if err := all.addDashboards(provider.Options.Path); err != nil {
				return err
			}
		}
		return nil
	})
	slices.SortFunc(all.dashboards, func(a, b dashboard) int { return strings.Compare(a.Title, b.Title) })
	return all, err
}

func eachYAML(dir string, take func([]byte) error) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the provisioning: %w", err)
	}
	for _, entry := range entries {
		if end := filepath.Ext(entry.Name()); end != ".yaml" && end != ".yml" {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		content, err := os.ReadFile(path)
		if err == nil {
			err = take(content)
		}
		if err != nil {
			return fmt.Errorf("cannot use the provisioning %s: %w", path, err)
		}
	}
	return nil
}

func (p *provisioned) add(source dataSource) error {
	target, err := url.Parse(source.URL)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return fmt.Errorf("the data source %q has no usable url: %q", source.Name, source.URL)
	}
	source.target = target
	source.ID = len(p.sources) + 1
	if source.UID == "" {
		source.UID = fmt.Sprintf("source-%d", source.ID)
	}
	for _, other := range p.sources {
		if other.UID == source.UID || other.Name == source.Name {
			return fmt.Errorf("two data sources are called %q (uid %q)", source.Name, source.UID)
		}
	}
	p.sources = append(p.sources, source)
	return nil
}

func (p *provisioned) addDashboards(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		d := dashboard{content: content}
		if err := json.Unmarshal(content, &d); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if d.UID == "" || d.Title == "" {
			return fmt.Errorf("%s: a dashboard needs a uid and a title", path)
		}
		p.dashboards = append(p.dashboards, d)
		return nil
	})
}
