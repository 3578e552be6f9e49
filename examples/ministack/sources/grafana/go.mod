module ministack/grafana

go 1.25.0

require (
	go.yaml.in/yaml/v3 v3.0.6
	gopkg.in/ini.v1 v1.67.3
)
