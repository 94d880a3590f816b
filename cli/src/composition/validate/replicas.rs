//! What the composition must not say of the control plane's state and of its replicas.

use super::Checker;
use super::mesh::CONTROL_PLANE;
use crate::composition::mesh::ControlPlane;
use crate::error::CliError;

impl Checker<'_> {
    /// Replicas stand in for each other only where they share what they know.
    pub(super) fn replicas(&self, plane: &ControlPlane) -> Result<(), CliError> {
        if let (Some(replica), false) = (plane.replicas.first(), plane.is_in_a_database()) {
            let what = format!(
                "the control plane has {} replicas, and each has a store of its own (`store: embedded`)",
                plane.all().count()
            );
            let fix = "write `store: postgres`, which they share, or remove `replicas`";
            return self.refuse(replica.component.referenced, what, fix);
        }
        for replica in &plane.replicas {
            self.replica(plane, &replica.component)?;
        }
        self.plane_database(plane)
    }

    fn replica(
        &self,
        plane: &ControlPlane,
        replica: &serde_saphyr::Spanned<String>,
    ) -> Result<(), CliError> {
        self.known(replica, "a replica of the control plane is")?;
        let (name, at) = (&replica.value, replica.referenced);
        let number = name.strip_prefix(CONTROL_PLANE);
        let number = number.and_then(|rest| rest.strip_prefix('-'));
        if number.is_none_or(|number| number.parse::<u8>().is_err()) {
            let what = format!("a replica of the control plane is called `{name}`");
            let fix = format!("call it `{CONTROL_PLANE}-2`: by that it is known to be one");
            return self.refuse(at, what, fix);
        }
        if plane.all().filter(|(one, _)| one.value == *name).count() > 1 {
            let what = format!("`{name}` is a replica twice");
            return self.refuse(at, what, "name it once");
        }
        let binary = |name: &str| self.composition.component(name)?.binary.clone();
        if binary(name) != binary(&plane.component.value) {
            let what = format!("`{name}` is no control plane");
            let fix = format!("give it the `binary` of `{}`", plane.component.value);
            return self.refuse(at, what, fix);
        }
        Ok(())
    }

    /// The database has the name of the control plane, like those of workloads, and each replica calls its server.
    fn plane_database(&self, plane: &ControlPlane) -> Result<(), CliError> {
        let Some(store) = plane.store.as_ref().filter(|_| plane.is_in_a_database()) else {
            return Ok(());
        };
        let Some(server) = self.composition.plane_database() else {
            let what = format!(
                "mesh.control_plane.store is `postgres`, and no server has a database `{CONTROL_PLANE}`"
            );
            let fix = format!(
                "add `{CONTROL_PLANE}` to `databases` and `callers` of a PostgreSQL server, and the server to its `calls`"
            );
            return self.refuse(store.referenced, what, fix);
        };
        let server = &server.name.value;
        for (name, _) in plane.all() {
            let component = self.composition.component(&name.value);
            let calls = component.is_some_and(|one| one.calls.iter().any(|to| to.value == *server));
            if !calls {
                let what = format!(
                    "`{}` does not call `{server}`, which has its state",
                    name.value
                );
                let fix = format!(
                    "add `{server}` to its `calls`, and `{}` to the `callers` of `{server}`",
                    name.value
                );
                return self.refuse(name.referenced, what, fix);
            }
        }
        Ok(())
    }
}
